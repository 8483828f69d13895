"""The texts without labels that a base model is adapted to: read, without duplicates, and without texts of the holdout."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.config.training_settings import AdaptSettings
from baton.errors import DataError
from baton.tasks import AnyTask
from baton.tasks.base import PAIR_SEPARATOR
from baton.text.normal_form import fingerprint, normalise
from baton.wording import counted
from training.data.sources import read

HELD_BACK_FRACTION = 0.1
"""Fraction of the texts that is held back from training. Their loss shows whether the adaptation helps."""

MAX_HELD_BACK = 500
"""Maximum number of texts that are held back."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The texts of one adaptation."""

    train: Sequence[str]
    """Texts to train on."""
    held_back: Sequence[str]
    """Texts on which the loss is measured."""
    removed_leaks: int
    """Number of texts that were removed because they are in the holdout."""
    removed_duplicates: int
    """Number of texts that were removed because they repeat another one."""

    def facts(self) -> dict[str, int]:
        """Return the counts for the lineage."""
        return {
            "texts": len(self.train),
            "held_back": len(self.held_back),
            "removed_leaks": self.removed_leaks,
            "removed_duplicates": self.removed_duplicates,
        }


def gather_texts(
    settings: AdaptSettings, task_cls: type[AnyTask], holdout: Sequence[Any], holdout_fingerprints: Collection[str] = ()
) -> Texts:
    """Read the texts of ``settings.data``, without empty ones, duplicates, and texts of the holdout.

    Texts are compared in their normal form (`baton.text.normal_form.normalise`). Every text of a ``holdout`` row is left out:
    both texts of a pair, the question and its context. Which texts are held back depends on their hash, not on their order.

    Args:
        settings: the source of the texts.
        task_cls: the task of the holdout rows.
        holdout: the rows of the holdout.
        holdout_fingerprints: fingerprints of all texts that were ever in the holdout, from the ledger. They are left out too.

    Raises:
        DataError: the file cannot be read, a row has no text, or fewer than two texts are left.
    """
    holdout_texts = {normalise(text) for row in holdout for text in _texts_of(task_cls, row)}
    seen: set[str] = set()
    kept: list[tuple[bytes, str]] = []
    leaks = duplicates = 0
    for text in read_texts(settings.data):
        content = normalise(text)
        if not content:
            continue
        if content in holdout_texts or fingerprint(text) in holdout_fingerprints:
            leaks += 1
        elif content in seen:
            duplicates += 1
        else:
            seen.add(content)
            kept.append((hashlib.sha256(content.encode()).digest(), text))
    if len(kept) < 2:
        raise DataError(
            f"{settings.data}: {counted(len(kept), 'text')} left to adapt to ({leaks} removed because they are in the holdout)"
            "; at least 2 are needed"
        )
    kept.sort()
    held_back = min(max(1, round(HELD_BACK_FRACTION * len(kept))), MAX_HELD_BACK)
    texts = [text for _, text in kept]
    return Texts(train=texts[held_back:], held_back=texts[:held_back], removed_leaks=leaks, removed_duplicates=duplicates)


def read_texts(source: str) -> Iterator[str]:
    """Yield the lines of a .txt file, or the field ``text`` of each row of a .jsonl file.

    Raises:
        DataError: the file cannot be read, or a row has no text.
    """
    path = Path(source)
    if path.suffix == ".jsonl":
        for row in read(source, "train"):
            if not isinstance(row.values.get("text"), str):
                raise DataError(f"{row.where}: field 'text' must be a string, not {row.values.get('text')!r}")
            yield str(row.values["text"])
        return
    try:
        yield from path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read: {error}") from error


def _texts_of(task_cls: type[AnyTask], row: Any) -> Iterable[str]:
    """Return every text that a holdout row shows to a model, each as a string of its own."""
    texts = [value for name in task_cls.Input.model_fields if isinstance(value := getattr(row, name, None), str)]
    return [*texts, task_cls.group(row), *task_cls.content(row).split(PAIR_SEPARATOR)]
