"""What `baton data` and runs say about data, with the base model's tokenizer, and suspects. Read `look` first."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from baton.artifacts.frozen import HOLDOUT, TRAIN
from baton.artifacts.storage import Storage
from baton.artifacts.suspects import store_suspects
from baton.config.base_models import find_base_model
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, StorageError
from baton.predict.predictor import load_tokenizer
from baton.tasks import task_type
from baton.tasks.windows import encode_beginnings, without_truncation
from training.data.checking import check
from training.data.datasets import Dataset
from training.data.findings import DataReport, Look
from training.data.frozen_report import look_at
from training.data.guessing import guess as guess_from
from training.data.sources import located, read
from training.methods import suspects as confident_learning

logger = logging.getLogger(__name__)

COUNTED_TOKENS = 4096
"""Longest text whose tokens are counted: more than any base model reads at once."""


def look(settings: ModelSettings, *, guess: bool, suspects_file: Path | None, storage: Storage | None = None) -> str:
    """Return the report about the data files of ``settings`` as JSON.

    Args:
        guess: find out the task from the rows of train, and columns that the settings do not name.
        suspects_file: write rows whose label a cross-validated probe doubts to this file, as JSON Lines: to look through, to
            correct, and to send as corrections. Progress goes to stderr.
        storage: keep the first of them there as well, for the console's review. A storage that is away is told, and no error.

    Raises:
        DataError: suspects are wanted, and the files cannot be read.
    """
    others: Sequence[str] = ()
    if guess and settings.data.train is not None:
        settings, others = _guessed(settings, settings.data.train)
    report = check(settings.data, _look(settings), min_rows=settings.gate.min_rows)
    content = {**_content(settings, report), "guessed": guess, "fields": dict(settings.data.fields), "others": others}
    if suspects_file is not None and report.usable:
        rows = _suspects(settings)
        suspects_file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        content["suspects"] = len(rows)
        content |= {} if storage is None else _for_review(storage, settings.name, rows)
    return json.dumps(content, ensure_ascii=False)


def look_at_frozen(settings: ModelSettings, dataset: Dataset) -> dict[str, Any] | None:
    """Return the report about a frozen data set, in the form of `look`.

    None if it cannot be made, for whatever reason: a run must not end for it.
    """
    splits = {TRAIN: dataset.train, HOLDOUT: dataset.holdout}
    try:
        return _content(settings, look_at(dataset.version, splits, _look(settings)))
    except Exception:
        logger.exception("%s: the report about the data could not be made", settings.name)
        return None


def _look(settings: ModelSettings) -> Look:
    return Look(task_cls=task_type(settings.task), lengths=_tokenizer(settings), max_length=settings.max_length)


def _content(settings: ModelSettings, report: DataReport) -> dict[str, Any]:
    return {**asdict(report), "usable": report.usable, "max_length": settings.max_length}


def _guessed(settings: ModelSettings, source: str) -> tuple[ModelSettings, Sequence[str]]:
    """Return the settings with the task and the columns that the file seems to have; unchanged if it cannot be read.

    And other columns that could hold the labels.
    """
    try:
        guessed = guess_from(source, settings.data.fields)
    except BatonError:
        return settings, ()
    data = settings.data.model_copy(update={"fields": guessed.fields})
    return settings.model_copy(update={"task": guessed.task, "data": data}), guessed.others


def _tokenizer(settings: ModelSettings) -> Callable[[Sequence[str]], Sequence[int]] | None:
    """Return the function that counts tokens with the base model's tokenizer; None if the base model is not to be had."""
    try:
        tokenizer = without_truncation(load_tokenizer(find_base_model(settings.base_model))[0])
    except BatonError:
        return None
    special = tokenizer.num_special_tokens_to_add(False)
    return lambda texts: [
        len(encoding) + special for encoding in encode_beginnings(tokenizer.encode_batch_fast, texts, COUNTED_TOKENS)
    ]


def _suspects(settings: ModelSettings) -> list[dict[str, Any]]:
    """Return the suspects of the train file as rows with notes, the most suspicious first."""
    task_cls, source = task_type(settings.task), str(settings.data.train)
    rows = located(task_cls, settings.data.fields, read(source, "train"), source)
    return [
        {
            **rows[one.row].example.model_dump(mode="json", exclude_none=True),
            "_suggested": one.suggested,
            "_margin": round(one.margin, 3),
            "_where": rows[one.row].where,
        }
        for one in confident_learning.suspects(settings, [row.example for row in rows], _progress)
    ]


def _for_review(storage: Storage, model: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    try:
        store_suspects(storage, model, rows)
    except StorageError as error:  # the file is there, and has them all
        return {"review_problem": str(error)}
    return {"review_problem": None}


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\rembedding {done:,} of {total:,} texts" + ("\n" if done == total else ""))
        sys.stderr.flush()
