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
from baton.tasks.base import PAIRED
from baton.text.normal_form import fingerprint, normalise
from training.data.sources import read

HELD_BACK, MOST_HELD_BACK = 0.1, 500
"""Share of the texts, and the most of them, whose loss says whether adaptation helps."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts to adapt to, those held back to measure by, and what was left out."""

    train: Sequence[str]
    held_back: Sequence[str]
    removed_leaks: int
    removed_duplicates: int

    def facts(self) -> dict[str, int]:
        """For the lineage."""
        return {
            "texts": len(self.train),
            "held_back": len(self.held_back),
            "removed_leaks": self.removed_leaks,
            "removed_duplicates": self.removed_duplicates,
        }


def gather(settings: AdaptSettings, task_cls: type[AnyTask], holdout: Sequence[Any], held: Collection[str] = ()) -> Texts:
    """The texts of ``settings.data``, without empty ones, repetitions, and those that also stand in the holdout, or belong
    there for ever (``held``: fingerprints of the ledger).

    What counts as the same is normalised (`baton.text.normal_form.normalise`); each text of a pair counts, a question and its
    context as well. Which texts are held back follows from their hash.

    Raises:
        DataError: the file cannot be read, a row has no text, or fewer than two texts are left.
    """
    forbidden = {normalise(text) for row in holdout for text in _texts_of(task_cls, row)}
    seen: set[str] = set()
    kept: list[tuple[bytes, str]] = []
    leaks = duplicates = 0
    for text in read_texts(settings.data):
        content = normalise(text)
        if not content:
            continue
        if content in forbidden or fingerprint(text) in held:
            leaks += 1
        elif content in seen:
            duplicates += 1
        else:
            seen.add(content)
            kept.append((hashlib.sha256(content.encode()).digest(), text))
    if len(kept) < 2:
        raise DataError(f"{settings.data}: {len(kept)} text(s) to adapt to, {leaks} left out with the holdout; 2 are needed")
    kept.sort()
    measured = min(max(1, round(HELD_BACK * len(kept))), MOST_HELD_BACK)
    texts = [text for _, text in kept]
    return Texts(train=texts[measured:], held_back=texts[:measured], removed_leaks=leaks, removed_duplicates=duplicates)


def read_texts(source: str) -> Iterator[str]:
    """The lines of a .txt file, or the field ``text`` of a .jsonl file. Raises ``DataError``."""
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
    """Every text that a holdout row shows to a model, each alone."""
    texts = [value for name in task_cls.Input.model_fields if isinstance(value := getattr(row, name, None), str)]
    return [*texts, task_cls.group(row), *task_cls.content(row).split(PAIRED)]
