"""Data: the frozen data set versions, what was kept out of them and why, and the corrections that wait for the next one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.artifacts import frozen
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.errors import NotFound, StorageError
from baton.store.records import LARGEST_INTEGER, PAGE, DatasetVersion
from baton.store.registry import Registry
from baton.tasks import task_type
from services.console.gate import ROOT
from services.console.pages import Pages, number_of

QUARANTINE_SHOWN = 200
"""Number of rows of a quarantine that are shown; the API has all."""

WAITING_SHOWN = 30
"""Number of waiting corrections that are shown, the newest ones."""


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
        return pages.render(
            request,
            "data.html",
            model=settings,
            tab="data",
            datasets=found,
            next=found[-1].number if len(found) == PAGE else None,
            waiting=[it for it in registry.feedback.newest(settings.name, WAITING_SHOWN) if it.id > until],
            waiting_count=registry.feedback.count_after(settings.name, until),
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
