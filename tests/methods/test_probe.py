"""A probe: training starts from it, and it has not seen the validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from baton.store.records import RunStage
from tests.support.world import LABELS, World, last_checkpoint, weights_of
from training import pipeline
from training.fit import weights
from training.fit.request import TrainingRequest
from training.fit.start import Start
from training.fit.worker import build_trainer
from training.methods import probe as probes
from training.methods.few_shot import fit
from training.methods.pooling import CONFIG_KEY

pytestmark = pytest.mark.usefixtures("one_thread")
PROBE = {"start_from": "probe", "few_shot": False}


@pytest.fixture
def world(tiny_base: Path, tmp_path: Path) -> World:
    return World(tiny_base, tmp_path, rows=160)


def ask(world: World, **training: Any) -> tuple[Any, TrainingRequest]:
    """Return the context and the request of a run that has begun."""
    context = world.context(**PROBE, **training)
    run = world.registry.runs.create("m", context.settings.model_dump(mode="json"), started=True)
    return context, pipeline.make_request(context, run.id, world.dataset, Start(), world.worker_config.database)


def trainer_of(world: World, request: TrainingRequest, scratch: Path) -> Any:
    config = replace(world.worker_config, start=asdict(request.start))
    return build_trainer(config, request.settings, scratch, 1)


def test_training_starts_from_the_probes_weights_and_keeps_what_it_knows(world, tmp_path):
    context, request = ask(world, validation=0.0)
    asked, facts = pipeline.fit_probe(context, request, {})
    assert asked.start.reason == f"a probe of it has a cross-validated f1 of {facts['probe']['f1']:.4f}"
    assert facts["probe"]["rows"] == len(world.dataset.train)
    (tmp_path / "scratch").mkdir()
    trainer = trainer_of(world, asked, tmp_path / "scratch")
    prepared = load_file(Path(world.storage.runs_path) / asked.start.prepared / "model.safetensors")
    begun = weights_of(trainer)
    assert prepared.keys() == begun.keys()
    assert all(torch.equal(begun[name], tensor) for name, tensor in prepared.items())
    before = world.f1(Path(world.storage.runs_path) / asked.start.prepared, world.dataset.holdout)
    trainer.train()
    assert world.f1(last_checkpoint(trainer), world.dataset.holdout) >= max(0.6, before - 0.02)


def test_the_rows_that_validate_are_not_among_those_of_the_probe(world, monkeypatch):
    seen: list[Sequence[Any]] = []

    def noting(request: TrainingRequest, rows: Sequence[Any]) -> Any:
        seen.append(rows)
        return fit(request, rows)

    monkeypatch.setattr(probes, "fit", noting)
    context, request = ask(world, validation=0.2)
    pipeline.fit_probe(context, request, {})
    held = {row.text for row in world.validation_rows()}
    assert held
    assert {row.text for row in seen[0]} == {row.text for row in world.dataset.train} - held


def test_of_very_many_rows_a_sample_of_each_label_is_taken(world, monkeypatch):
    monkeypatch.setattr(probes, "MAX_ROWS", 40)
    context, request = ask(world, validation=0.0)
    context.clock.enter(RunStage.PROBING)
    with probes.probe(request) as (_, facts):
        assert facts["rows"] == 40


def test_from_remote_storage_workers_fetch_it(tiny_base, tmp_path):
    world = World(tiny_base, tmp_path, rows=60, storage="memory://probe-test")
    context, request = ask(world)
    asked, _ = pipeline.fit_probe(context, request, {})
    origin = weights.fetch(Start(**asdict(asked.start)), request.settings, world.storage, tmp_path / "cache")
    model = origin.load(type(request.settings.make_task(LABELS)), LABELS)
    assert getattr(model.config, CONFIG_KEY)
    world.storage.remove_run(request.run_id)
    assert world.storage.run_ids() == []


def test_a_run_that_starts_elsewhere_fits_none(world):
    context = world.context(start_from="base")
    request = pipeline.make_request(context, "r", world.dataset, Start(), "unused")
    assert pipeline.fit_probe(context, request, {}) == (request, {})


def test_a_run_that_wants_a_champion_where_there_is_none_is_like_one_that_wants_none(world):
    context = world.context(start_from="champion", few_shot=False)
    found, start, facts = pipeline.choose_recipe(context, world.dataset)
    assert (start.parent, start.reason) == (None, "there is no champion yet")
    assert found.settings.training.start_from == "probe"
    assert facts["recipe"].startswith(
        "there is no champion yet: from a probe; 4 epochs over 160 rows at a learning rate of 0.001"
    )
