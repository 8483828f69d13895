"""`baton rename`: what a model has goes with its name, also if the first try is killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.artifacts.storage import Storage
from baton.artifacts.suspects import store_suspects, stored_suspects
from baton.config.file import BatonConfig
from baton.config.model_settings import ServingSettings
from baton.errors import Conflict, InvalidInput, NotFound
from baton.predict.predictor import Predictor
from baton.store.registry import Registry
from baton.tasks.classification import Classification
from services.host import renaming
from services.names import model_lease
from tests.support.tiny import save_classifier
from tests.support.world import LABELS, World
from training.data import datasets
from training.fit.start import find_start
from training.reports import kept_answers

TEXTS = [Classification.from_wire(text) for text in ("I was charged twice", "the page is broken")]


@pytest.fixture(params=["a directory", "memory://renaming"])
def world(request: pytest.FixtureRequest, tiny_base: Path, tmp_path: Path) -> Iterator[World]:
    """A model ``m`` with a champion."""
    remote = request.param if "://" in request.param else None
    world = World(tiny_base, tmp_path, rows=60, storage=remote)
    world.make_champion(world.publish(save_classifier(tiny_base, LABELS, tmp_path / "version")))
    yield world
    if remote is not None:
        world.storage.filesystem.rm("/renaming", recursive=True)


def never() -> None:
    raise AssertionError("there is nothing to wait for")


def scores(registry: Registry, storage: Storage, model: str, cache: Path) -> list[Any]:
    """What the champion answers."""
    champion = registry.champion_version(model)
    assert champion is not None
    directory, manifest = storage.fetch(champion, cache)
    serving = ServingSettings(precision="fp32", device="cpu")
    return [output.model_dump() for output in Predictor.load(directory, manifest, serving).predict(TEXTS)]


def test_versions_serve_under_the_new_name_and_are_trained_further(world, tmp_path):
    registry, storage = world.registry, world.storage
    before = scores(registry, storage, "m", tmp_path / "a")
    [evaluation] = [registry.evaluations.get("m", 1, world.dataset.version.holdout_hash)]
    assert evaluation is not None
    told = kept_answers(world.context(), evaluation)
    suspects = [{"text": "it is broken", "label": "billing", "_suggested": "bug", "_margin": 0.5, "_where": "line 1"}]
    store_suspects(storage, "m", suspects)
    renaming.rename(registry, storage, "m", "tickets", by="ada", waiting=never)

    assert (stored_suspects(storage, "tickets"), stored_suspects(storage, "m")) == (suspects, [])
    assert scores(registry, storage, "tickets", tmp_path / "b") == before
    assert [entry.what for entry in registry.history.list("tickets")] == ["renamed", "promoted"]
    assert storage.newest("m") == 0
    assert storage.newest("tickets") == 1
    settings = world.settings(start_from="champion").model_copy(update={"name": "tickets"})
    start = find_start(settings, registry, storage, datasets.freeze("tickets", Classification, settings.data, storage))
    assert (start.parent, start.new_rows) == (1, 0), "the data set that it was trained on is found"
    context = replace(world.context(), settings=settings)
    assert told
    assert kept_answers(context, evaluation) == told
    with pytest.raises(NotFound, match="m"):
        registry.champion("m")


def test_a_try_that_was_killed_is_made_again(world, tmp_path, monkeypatch):
    registry, storage = world.registry, world.storage
    before = scores(registry, storage, "m", tmp_path / "a")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            renaming.rename(registry, storage, "m", "tickets", by="ada", waiting=never)
    assert scores(registry, storage, "m", tmp_path / "b") == before
    renaming.rename(registry, storage, "m", "tickets", by="ada", waiting=never)
    assert scores(registry, storage, "tickets", tmp_path / "c") == before


def test_a_service_must_let_go_of_it_first(world, monkeypatch):
    monkeypatch.setattr(renaming, "LEASE_SECONDS", 0.1)
    world.registry.leases.acquire([model_lease("m")], "a cluster", 60)
    waited: list[bool] = []
    with pytest.raises(Conflict, match="a running service has the model m; first give it the new configuration: `baton apply`"):
        renaming.rename(world.registry, world.storage, "m", "tickets", by="ada", waiting=lambda: waited.append(True))
    assert waited == [True]
    assert world.storage.newest("tickets") == 0
    world.registry.leases.release("a cluster")
    renaming.rename(world.registry, world.storage, "m", "tickets", by="ada", waiting=never)


def test_the_file_has_the_new_name_first():
    model = {"task": "ner", "base_model": "x"}
    config = BatonConfig.model_validate({"models": [{"name": "tickets", **model}, {"name": "other", **model}]})
    renaming.check_names(config, "intents", "tickets")
    for old, new, said in (
        ("tickets", "tickets", "tickets has this name already"),
        ("other", "tickets", "the configuration still has a model other; give it the name tickets there first"),
        ("intents", "new", "the configuration has no model new, only tickets, other; give it the new name there first"),
    ):
        with pytest.raises(InvalidInput, match=said):
            renaming.check_names(config, old, new)
