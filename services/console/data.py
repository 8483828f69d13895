"""Data: the frozen data set versions, what was kept out of them and why, and what waits for the next one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.artifacts import frozen
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.errors import NotFound, StorageError
from baton.store.records import LARGEST_INTEGER, PAGE, DatasetVersion, Feedback
from baton.store.registry import Registry
from baton.tasks import task_type
from baton.text.normal_form import normalise
from services.console.gate import ROOT
from services.console.pages import Pages, number_of

QUARANTINE_SHOWN = 200
"""Number of rows of a quarantine that are shown; the API has all."""

WAITING_SHOWN = 30
"""Number of waiting corrections that are shown, the newest ones."""


READ_FOR_LABELS = 1000
"""Number of newest waiting corrections whose labels are counted."""


@dataclass(frozen=True, kw_only=True)
class WaitingLabel:
    """A label that too few different texts have to become a class (`data.new_label_after`)."""

    name: str
    frozen: int
    """Different texts that had it when the newest data set was frozen."""
    since: int
    """Different texts of the corrections that arrived later."""


def data_routes(pages: Pages) -> list[Route]:
    """Return the routes of data."""
    registry = pages.control.registry
    storage = Storage(pages.control.config.storage)

    def list_datasets(request: Request) -> Response:
        settings = pages.settings(request)
        before = request.query_params.get("before")
        found = registry.datasets.list(settings.name, before=number_of(before, "before") if before else None)
        newest = registry.datasets.latest(settings.name)
        until = newest.feedback_until if newest else 0
        waiting = registry.feedback.waiting(settings.name, until, READ_FOR_LABELS)
        return pages.render(
            request,
            "data.html",
            model=settings,
            tab="data",
            datasets=found,
            next=found[-1].number if len(found) == PAGE else None,
            waiting=waiting[:WAITING_SHOWN],
            waiting_count=registry.feedback.count_after(settings.name, until),
            new_labels=waiting_labels(settings, newest, waiting),
            needed=settings.data.new_label_after,
            read=READ_FOR_LABELS,
            answer=lambda example: answer_text(settings, example),
            text=lambda example: input_text(settings, example),
        )

    def get_dataset(request: Request) -> Response:
        settings, number = pages.settings(request), request.path_params["number"]
        if not 1 <= number <= LARGEST_INTEGER:
            raise NotFound(f"{settings.name} has no data set {number}")
        version = registry.datasets.get(settings.name, number)
        quarantine, problem = [], None
        try:
            quarantine = frozen.read_quarantine(storage, version.uri)[:QUARANTINE_SHOWN]
        except StorageError as error:  # what the database knows is shown nevertheless
            problem = str(error)
        return pages.render(
            request,
            "dataset.html",
            model=settings,
            tab="data",
            dataset=version,
            quarantine=quarantine,
            problem=problem,
            labels=_labels(version),
            senders=_senders(registry, version),
        )

    path = f"{ROOT}/models/{{model}}/data"
    return [
        Route(path, list_datasets, methods=["GET"]),
        Route(f"{path}/{{number:int}}", get_dataset, methods=["GET"]),
    ]


def answer_text(settings: ModelSettings, example: Mapping[str, Any]) -> str:
    """Return the right answer of a stored example in words."""
    if "label" in example:
        label = example["label"]
        return label if isinstance(label, str) else ", ".join(label)
    if "entities" in example:
        text = example["text"]
        return ", ".join(f"{text[it['start'] : it['end']]} ({it['label']})" for it in example["entities"])
    return ", ".join(example["target"] if "target" in example else example.get("answers", {}).get("text", ()))


def input_text(settings: ModelSettings, example: Mapping[str, Any]) -> str:
    """Return the input of a stored example in one line."""
    names = task_type(settings.task).Input.model_fields
    return " · ".join(str(example[name]) for name in names if example.get(name) is not None)


def waiting_labels(settings: ModelSettings, newest: DatasetVersion | None, waiting: Sequence[Feedback]) -> list[WaitingLabel]:
    """Return the labels that are no classes yet, the most frequent first. Before the first data set, no label is known or new.

    ``waiting``: the corrections that the newest data set has not read.
    """
    if newest is None:
        return []
    task_cls = task_type(settings.task)
    texts: dict[str, set[str]] = {label: set() for label in newest.waiting}
    for correction in waiting:
        try:
            example = task_cls.Example.model_validate(correction.example)
        except ValidationError:  # of another task that the model had
            continue
        for label in set(task_cls.labels_in(example)).difference(newest.classes, newest.labels):
            texts.setdefault(label, set()).add(normalise(task_cls.content(example)))
    found = [WaitingLabel(name=label, frozen=newest.waiting.get(label, 0), since=len(seen)) for label, seen in texts.items()]
    return sorted(found, key=lambda label: (-label.frozen - label.since, label.name))


def _labels(version: DatasetVersion) -> list[tuple[str, int, int]]:
    """Return the rows of each label in train and in the holdout, the most frequent label first."""
    by_split = {split: Counter[str]() for split in ("train", "holdout")}
    for split, counts in by_split.items():
        for labels in version.counts.get(split, {}).values():
            counts.update(labels)
    names = sorted(by_split["train"] | by_split["holdout"], key=lambda name: (-by_split["train"][name], name))
    return [(name, by_split["train"][name], by_split["holdout"][name]) for name in names]


def _senders(registry: Registry, version: DatasetVersion) -> list[tuple[str, int]]:
    """Return the train rows of each API key by its name: an id where the key is gone."""
    names = {key.id: key.name for key in registry.keys.live()}
    return [(names.get(sender, sender), rows) for sender, rows in version.senders.items()]
