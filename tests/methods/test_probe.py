"""A probe: training starts from it, it has not seen the validation rows, and it serves first where training takes long."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from baton.store.records import RunStage, RunState, Verdict
from tests.support.world import LABELS, World, last_checkpoint, weights_of
from training import pipeline
from training.fit import weights
from training.fit.request import Trained, TrainingRequest
from training.fit.start import Start
from training.fit.worker import build_trainer
from training.matches import STAND_IN
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
    return context, pipeline.ask(context, run.id, world.dataset, world.worker_config.database)


def trainer_of(world: World, request: TrainingRequest, scratch: Path) -> Any:
    config = replace(world.worker_config, start=asdict(request.start))
    return build_trainer(config, request.settings, scratch, 1)


def test_training_starts_from_the_probes_weights_and_makes_them_better(world, tmp_path):
    context, request = ask(world, validation=0.0)
    asked, facts = pipeline.fit_probe(context, world.dataset, request)
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
    pipeline.fit_probe(context, world.dataset, request)
    held = {row.text for row in world.validation_rows()}
    assert held
    assert {row.text for row in seen[0]} == {row.text for row in world.dataset.train} - held


def test_of_very_many_rows_a_sample_of_each_label_is_taken(world, monkeypatch):
    monkeypatch.setattr(probes, "MAX_ROWS", 40)
    context, request = ask(world, validation=0.0)
    context.clock.enter(RunStage.PROBING)
    with probes.probe(request) as (fitted, _):
        assert fitted.details["probe"]["rows"] == 40


def test_from_remote_storage_workers_fetch_it(tiny_base, tmp_path):
    world = World(tiny_base, tmp_path, rows=60, storage="memory://probe-test")
    context, request = ask(world)
    asked, _ = pipeline.fit_probe(context, world.dataset, request)
    origin = weights.fetch(Start(**asdict(asked.start)), request.settings, world.storage, tmp_path / "cache")
    model = origin.load(type(request.settings.make_task(LABELS)), LABELS)
    assert getattr(model.config, CONFIG_KEY)
    world.storage.remove_run(request.run_id)
    assert world.storage.run_ids() == []


def test_a_run_from_elsewhere_fits_none(world):
    context = world.context(start_from="base")
    request = pipeline.ask(context, "r", world.dataset, "unused")
    assert pipeline.fit_probe(context, world.dataset, request) == (request, {})


# --- the first version ---------------------------------------------------------------------------------------------------


def test_where_training_takes_long_a_model_without_champion_gets_the_probe_first(world, monkeypatch):
    monkeypatch.setattr(pipeline, "LONG_SECONDS", 0.0)
    context, request = ask(world)
    stages: list[RunStage] = []
    report = world.registry.runs.report

    def noting(run_id: str, stage: RunStage, progress: dict[str, Any]) -> None:
        stages.append(stage)
        report(run_id, stage, progress)

    context.clock._report = lambda stage, progress: noting(request.run_id, stage, progress)
    pipeline.fit_probe(context, world.dataset, request)
    run = world.registry.runs.get(request.run_id)
    assert (run.state, run.version) == (RunState.RUNNING, 1)
    [waiting] = world.registry.pending_decisions()
    assert (waiting.id, waiting.candidate, waiting.verdict) == (run.decision_id, 1, Verdict.PROMOTE)
    version = world.registry.versions.get("m", 1)
    assert version.lineage["training"]["few_shot"] is True
    assert version.lineage["run_id"] == request.run_id
    assert list(dict.fromkeys(stages)) == [RunStage.PROBING, RunStage.EVALUATING, RunStage.PUBLISHING, RunStage.DECIDING]
    assert version.lineage["engine"].endswith("fp32")
    assert version.lineage[STAND_IN] is True


def trained(request: TrainingRequest, kept: Path) -> Trained:
    """Return what a run ends with; here it is the probe itself."""
    with probes.probe(request) as (fitted, _):
        shutil.copytree(fitted.directory, kept)
        return replace(fitted, directory=kept)


@pytest.mark.parametrize("of", ["the same run", "another run"])
def test_the_runs_last_version_replaces_its_stand_in_unless_it_is_worse(world, monkeypatch, tmp_path, of):
    monkeypatch.setattr(pipeline, "LONG_SECONDS", 0.0)
    context, request = ask(world)
    pipeline.fit_probe(context, world.dataset, request)
    world.make_champion(world.registry.versions.get("m", 1))
    run_id = request.run_id
    if of == "another run":
        world.registry.runs.finish(run_id, RunState.FAILED, reason="a test wants it")
        context, request = ask(world)
        run_id = request.run_id
    context.clock.enter(RunStage.TRAINING)
    last = trained(request, tmp_path / "kept")
    version, decision = pipeline.publish_and_decide(context, run_id, world.dataset, last)
    assert (version.number, version.run_id, version.lineage[STAND_IN]) == (2, run_id, False)
    if of == "another run":  # an equal version is no reason to replace a champion
        assert decision.verdict is not Verdict.PROMOTE
        return
    assert decision.verdict is Verdict.PROMOTE
    assert decision.sentence.startswith("Promote: v2, for which v1 stood in while it trained, F1 ")
    assert (decision.champion, decision.numbers["compared"]) == (1, False)


def test_a_worse_last_version_does_not_replace_its_stand_in(world, monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "LONG_SECONDS", 0.0)
    context, request = ask(world)
    pipeline.fit_probe(context, world.dataset, request)
    world.make_champion(world.registry.versions.get("m", 1))
    context.clock.enter(RunStage.TRAINING)
    last = trained(request, tmp_path / "kept")
    weights_file = last.directory / "model.safetensors"
    state = load_file(weights_file)
    state["classifier.weight"] = state["classifier.weight"].flip(0).contiguous()
    save_file(state, weights_file, metadata={"format": "pt"})
    _, decision = pipeline.publish_and_decide(context, request.run_id, world.dataset, last)
    assert decision.verdict is Verdict.REJECT
    assert decision.numbers["compared"] is True


@pytest.mark.parametrize("end", [RunState.FAILED, RunState.CANCELLED])
def test_a_run_that_fails_afterwards_leaves_the_probe_in_service(world, monkeypatch, end):
    monkeypatch.setattr(pipeline, "LONG_SECONDS", 0.0)
    context, request = ask(world)
    pipeline.fit_probe(context, world.dataset, request)
    world.registry.runs.finish(request.run_id, end, reason="a test wants it")
    assert [decision.candidate for decision in world.registry.pending_decisions()] == [1]
    assert world.registry.runs.get(request.run_id).version == 1


@pytest.mark.parametrize("why_not", ["it takes a moment only", "a version serves"])
def test_otherwise_nothing_is_published(world, monkeypatch, tmp_path, why_not):
    if why_not == "a version serves":
        monkeypatch.setattr(pipeline, "LONG_SECONDS", 0.0)
        trainer = world.trainer(tmp_path, epochs=1)
        trainer.train()
        world.make_champion(world.publish(last_checkpoint(trainer)))
    before = world.registry.versions.list("m")
    context, request = ask(world)
    pipeline.fit_probe(context, world.dataset, request)
    assert world.registry.versions.list("m") == before
    assert world.registry.pending_decisions() == []
