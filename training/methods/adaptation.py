"""Domain adaptation: continued masked-language training of the base model on texts without labels, before anything else.

The outcome is a base model like any other, whose encoder has read the domain's texts. Texts of the holdout are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from baton.config.training_settings import AdaptSettings
from baton.errors import DataError
from baton.tasks import AnyTask, task_type
from baton.tasks.base import PAIRED
from baton.text.normal_form import fingerprint, normalise
from training.data.datasets import Dataset
from training.data.sources import read
from training.fit.trainer import Order, fit

FOLDER, BASE = "adapt", "base"
"""Among the run's files: the adaptation's, and in each of its checkpoints the adapted base model."""

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


def gather(settings: AdaptSettings, kind: type[AnyTask], holdout: Sequence[Any], held: Collection[str] = ()) -> Texts:
    """The texts of ``settings.data``, without empty ones, repetitions, and those that also stand in the holdout, or belong
    there for ever (``held``: fingerprints of the ledger).

    What counts as the same is normalised (`baton.text.normal_form.normalise`); each text of a pair counts, a question and its
    context as well. Which texts are held back follows from their hash.

    Raises:
        DataError: the file cannot be read, a row has no text, or fewer than two texts are left.
    """
    forbidden = {normalise(text) for row in holdout for text in _texts_of(kind, row)}
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


def _texts_of(kind: type[AnyTask], row: Any) -> Iterable[str]:
    """Every text that a holdout row shows to a model, each alone."""
    texts = [value for name in kind.Input.model_fields if isinstance(value := getattr(row, name, None), str)]
    return [*texts, kind.group(row), *kind.content(row).split(PAIRED)]


def adapt(order: Order, dataset: Dataset, held: Collection[str]) -> tuple[Order, dict[str, Any]]:
    """``order`` with an adapted base model to start from, and how that came about, for the lineage. ``held``: see `gather`.

    Of the epochs, the one with the lowest loss on the texts held back counts.

    Raises:
        DataError: the texts cannot be read.
        TrainingFailed: as `training.fit.trainer.fit` does.
    """
    settings = order.settings.training.adapt
    assert settings is not None
    texts = gather(settings, task_type(order.settings.task), dataset.holdout, held)
    order.progress(**texts.facts())
    folder = f"{order.run_id}/{FOLDER}"
    checkpoint = fit(
        order, _train, {"texts": ray.put(texts)}, storage_path=f"{order.runs_path}/{order.run_id}", name=FOLDER,
        score="loss", mode="min",
    )  # fmt: skip
    with checkpoint.as_directory() as directory:
        noted = json.loads((Path(directory) / "baton-checkpoint.json").read_text())
    adapted = f"{folder}/{checkpoint.path.rstrip('/').rpartition('/')[2]}/{BASE}"
    facts = {"data": settings.data, **texts.facts(), **noted}
    return replace(order, start=replace(order.start, adapted=adapted)), {"adaptation": facts}


def _train(config: dict[str, Any]) -> None:
    from training.methods import masked

    masked.train(config)
