"""Extractive question answering without Baton, for SQuAD v1.1: the best span of all overlapping windows.

``python -m benchmarks.plain.qa DIRECTORY SEED`` prints one JSON line: F1 and exact match on the holdout.
"""

from __future__ import annotations

import json
import re
import string
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray

from benchmarks.plain.trainer import Features, fit, load_base, predict
from benchmarks.service import MAX_ANSWER_TOKENS, SUBJECTS, Recipe, holdout_of, read_rows, train_of

N_BEST = 20
"""Number of the best starts and ends of a window that are combined to spans."""

PUNCTUATION = str.maketrans("", "", string.punctuation)


def main(data: Path, seed: int) -> None:
    """Train on the questions in ``data``, and print the scores on its holdout."""
    recipe = replace(SUBJECTS["qa"].recipe, seed=seed)
    base, tokenizer = load_base(recipe)
    train, test = read_rows(train_of(data)), read_rows(holdout_of(data))
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(base)
    encoded = _encode(tokenizer, train, recipe)
    windows = _features(encoded)
    for number, (window, owner) in enumerate(zip(windows, encoded["overflow_to_sample_mapping"], strict=True)):
        window["start_positions"], window["end_positions"] = _target(encoded, number, train[owner]["answers"])
    trainer = fit(model, tokenizer, transformers.DataCollatorWithPadding(tokenizer), windows, recipe)
    encoded = _encode(tokenizer, test, recipe)
    starts, ends = predict(trainer, _features(encoded))
    print(json.dumps(score(_answers(encoded, starts, ends, test), [row["answers"]["text"] for row in test])))


def _encode(tokenizer: Any, rows: Sequence[dict[str, Any]], recipe: Recipe) -> Any:
    """Return windows of question and context. Only the context is split."""
    return tokenizer(
        [row["question"].strip() for row in rows],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=recipe.max_length,
        stride=recipe.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )


def _features(encoded: Any) -> Features:
    names = ("input_ids", "token_type_ids", "attention_mask")
    return [dict(zip(names, values, strict=True)) for values in zip(*(encoded[name] for name in names), strict=True)]


def _context(encoded: Any, window: int) -> tuple[int, NDArray[np.int64]]:
    """Return the index of the context's first token in a window, and the start and end characters of its tokens [tokens, 2]."""
    parts = encoded.sequence_ids(window)
    first = parts.index(1)
    return first, np.array(encoded["offset_mapping"][window][first : first + parts.count(1)])


def _target(encoded: Any, window: int, answers: dict[str, Any]) -> tuple[int, int]:
    """Return the first and the last token of the first reference; [CLS] twice if the window does not contain all of it."""
    start = answers["answer_start"][0]
    end = start + len(answers["text"][0])
    first, characters = _context(encoded, window)
    if start < characters[0, 0] or characters[-1, 1] < end:
        return 0, 0
    begins = np.searchsorted(characters[:, 0], start, side="right") - 1
    finishes = np.searchsorted(characters[:, 1], end, side="left")
    return first + int(begins), first + int(finishes)


def _answers(encoded: Any, starts: NDArray[np.float32], ends: NDArray[np.float32], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return for each row the span with the highest sum of start and end logit in all of its windows."""
    best = [(-np.inf, "")] * len(rows)
    for window, owner in enumerate(encoded["overflow_to_sample_mapping"]):
        first, characters = _context(encoded, window)
        tokens = slice(first, first + len(characters))
        value, begin, end = _best_span(starts[window, tokens], ends[window, tokens])
        if value > best[owner][0]:
            best[owner] = (value, rows[owner]["context"][characters[begin, 0] : characters[end, 1]])
    return [text for _, text in best]


def _best_span(starts: NDArray[np.float32], ends: NDArray[np.float32]) -> tuple[float, int, int]:
    """Return score, first and last token of the best allowed span of the best starts and ends; the score is -inf if none is."""
    begin, end = (np.argsort(-logits)[:N_BEST] for logits in (starts, ends))
    values = starts[begin, None] + ends[None, end]
    lengths = end[None, :] - begin[:, None] + 1
    values[(lengths < 1) | (lengths > MAX_ANSWER_TOKENS)] = -np.inf
    row, column = np.unravel_index(np.argmax(values), values.shape)
    return float(values[row, column]), int(begin[row]), int(end[column])


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the means of SQuAD v1.1's F1 and exact match over the rows.

    A row counts with its best reference (Rajpurkar et al. 2016, section 6.1).
    """
    f1, exact = [], []
    for prediction, texts in zip(predictions, references, strict=True):
        words, wanted = normalised(prediction), [normalised(text) for text in texts]
        f1.append(max(_overlap(words, reference) for reference in wanted))
        exact.append(words in wanted)
    return {"f1": float(np.mean(f1)), "exact_match": float(np.mean(exact))}


def normalised(text: str) -> list[str]:
    """Return the words of ``text`` in lower case, without ASCII punctuation and articles."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split()


def _overlap(predicted: Sequence[str], reference: Sequence[str]) -> float:
    """Return F1 of two bags of words: 2·common / all, which equals 2PR / (P + R)."""
    common = (Counter(predicted) & Counter(reference)).total()
    return 2 * common / max(1, len(predicted) + len(reference))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
