"""Named entity recognition without Baton: rows of words and IOB2 tags, a tag for each word from its first sub-word.

``python -m benchmarks.plain.ner DIRECTORY SEED`` prints one JSON line: the holdout's strict micro-F1 of entities.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from benchmarks.plain.trainer import Features, begin, fit, predict
from benchmarks.service import SUBJECTS, holdout_of, read_rows, train_of

IGNORED = -100
"""Target of tokens that the loss passes over."""


def main(data: Path, seed: int) -> None:
    """Train on the words and tags in ``data``, score on its holdout."""
    recipe = replace(SUBJECTS["ner"].recipe, seed=seed)
    base, tokenizer = begin(recipe)
    train, test = read_rows(train_of(data)), read_rows(holdout_of(data))
    tags = sorted({tag for row in train for tag in row["tags"]})
    model = transformers.AutoModelForTokenClassification.from_pretrained(base, num_labels=len(tags))

    def encode(rows: Sequence[dict[str, Any]]) -> Any:
        words = [row["tokens"] for row in rows]
        return tokenizer(words, is_split_into_words=True, truncation=True, max_length=recipe.max_length)

    encoded = encode(train)
    windows = _features(encoded)
    for window, places, row in zip(windows, _first_tokens(encoded), train, strict=True):
        window["labels"] = [IGNORED] * len(window["input_ids"])
        for word, place in places.items():
            window["labels"][place] = tags.index(row["tags"][word])
    trainer = fit(model, tokenizer, transformers.DataCollatorForTokenClassification(tokenizer), windows, recipe)
    encoded = encode(test)
    (logits,) = predict(trainer, _features(encoded))
    predicted = []
    for best, places, row in zip(np.argmax(logits, axis=-1), _first_tokens(encoded), test, strict=True):
        predicted.append(["O"] * len(row["tags"]))  # what a cut-off word keeps
        for word, place in places.items():
            predicted[-1][word] = tags[best[place]]
    print(json.dumps({"f1": strict_f1([row["tags"] for row in test], predicted)}))


def _features(encoded: Any) -> Features:
    pairs = zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    return [{"input_ids": ids, "attention_mask": mask} for ids, mask in pairs]


def _first_tokens(encoded: Any) -> list[dict[int, int]]:
    """For each row: word → its first token. Words that were cut off, or have no token, are absent."""
    rows: list[dict[int, int]] = []
    for row in range(len(encoded["input_ids"])):
        rows.append({})
        for place, word in enumerate(encoded.word_ids(row)):
            if word is not None:
                rows[-1].setdefault(word, place)
    return rows


def strict_f1(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Micro-F1 over the entities of all rows; one is right when its type, start and end are (seqeval's strict IOB2)."""
    pairs = [(entities(ours), entities(theirs)) for ours, theirs in zip(true, predicted, strict=True)]
    right = sum(len(ours & theirs) for ours, theirs in pairs)
    return 2 * right / max(1, sum(len(ours) + len(theirs) for ours, theirs in pairs))


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first word, word after the last) of each B-X and the I-X that follow it; any other I-X is no entity."""
    found = set()
    for start, tag in enumerate(tags):
        if tag.startswith("B-"):
            kind, end = tag[2:], start + 1
            while end < len(tags) and tags[end] == f"I-{kind}":
                end += 1
            found.add((kind, start, end))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
