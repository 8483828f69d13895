"""Named entity recognition without Baton, for rows of words and IOB2 tags. A word's first sub-word predicts its tag.

``python -m benchmarks.plain.ner DIRECTORY SEED`` prints one JSON line: strict micro-F1 of the entities in the holdout.
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

from benchmarks.plain.trainer import Features, fit, load_base, predict
from benchmarks.service import SUBJECTS, holdout_of, read_rows, train_of

IGNORED = -100
"""Target of tokens that the loss ignores."""


def main(data: Path, seed: int) -> None:
    """Train on the words and tags in ``data``, and print the score on its holdout."""
    recipe = replace(SUBJECTS["ner"].recipe, seed=seed)
    base, tokenizer = load_base(recipe)
    train, test = read_rows(train_of(data)), read_rows(holdout_of(data))
    tags = sorted({tag for row in train for tag in row["tags"]})
    model = transformers.AutoModelForTokenClassification.from_pretrained(base, num_labels=len(tags))

    def encode(rows: Sequence[dict[str, Any]]) -> Any:
        words = [row["tokens"] for row in rows]
        return tokenizer(words, is_split_into_words=True, truncation=True, max_length=recipe.max_length)

    encoded = encode(train)
    windows = _features(encoded)
    for window, first_tokens, row in zip(windows, _first_tokens(encoded), train, strict=True):
        window["labels"] = [IGNORED] * len(window["input_ids"])
        for word, token in first_tokens.items():
            window["labels"][token] = tags.index(row["tags"][word])
    trainer = fit(model, tokenizer, transformers.DataCollatorForTokenClassification(tokenizer), windows, recipe)
    encoded = encode(test)
    (logits,) = predict(trainer, _features(encoded))
    predicted = []
    for best, first_tokens, row in zip(np.argmax(logits, axis=-1), _first_tokens(encoded), test, strict=True):
        predicted.append(["O"] * len(row["tags"]))  # words that were cut off keep this tag
        for word, token in first_tokens.items():
            predicted[-1][word] = tags[best[token]]
    print(json.dumps({"f1": strict_f1([row["tags"] for row in test], predicted)}))


def _features(encoded: Any) -> Features:
    pairs = zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    return [{"input_ids": ids, "attention_mask": mask} for ids, mask in pairs]


def _first_tokens(encoded: Any) -> list[dict[int, int]]:
    """Return for each row the index of each word's first token. Words that were cut off, or have no token, are missing."""
    rows: list[dict[int, int]] = []
    for row in range(len(encoded["input_ids"])):
        rows.append({})
        for token, word in enumerate(encoded.word_ids(row)):
            if word is not None:
                rows[-1].setdefault(word, token)
    return rows


def strict_f1(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Return micro-F1 over the entities of all rows. Type, start and end must be right (seqeval's strict IOB2)."""
    pairs = [(entities(ours), entities(theirs)) for ours, theirs in zip(true, predicted, strict=True)]
    right = sum(len(ours & theirs) for ours, theirs in pairs)
    return 2 * right / max(1, sum(len(ours) + len(theirs) for ours, theirs in pairs))


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return (type, first word, word after the last) of each B-X with the I-X that follow it. Other I-X are ignored."""
    found = set()
    for start, tag in enumerate(tags):
        if tag.startswith("B-"):
            entity_type, end = tag[2:], start + 1
            while end < len(tags) and tags[end] == f"I-{entity_type}":
                end += 1
            found.add((entity_type, start, end))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
