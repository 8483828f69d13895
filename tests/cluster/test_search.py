"""Searches, cross-validation, few-shot and adaptation as runs of a real service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from baton.store.records import Run, RunState
from tests.cluster.conftest import LABELS, WORKER, Service
from tests.support.tiny import keyword_rows
from tests.support.waiting import until

pytestmark = pytest.mark.cluster
TRIAL = "ray::ImplicitFunc"
"""What Ray Tune calls the process of a trial."""


def carry_out(service: Service, settings: Mapping[str, Any]) -> tuple[Run, Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    """A run with these settings of `training`: its record, its version's lineage, and what it reported."""
    run = service.await_run(service.start_run("runs", *assignments(settings)))
    assert run.state is RunState.SUCCEEDED, run.reason
    assert run.version is not None
    return run, service.registry.versions.get("runs", run.version).lineage, service.events(run.id)


def assignments(settings: Mapping[str, Any]) -> list[str]:
    """In YAML on one line each, as on the command line."""
    return [
        f"training.{key}={yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix(chr(10) + '...' + chr(10))}"
        for key, value in settings.items()
    ]


def test_a_run_fits_a_probe_by_itself_and_is_fine_tuned_from_it(runs: Service) -> None:
    left_out = dict.fromkeys(("epochs", "learning_rate", "validation"))
    run, lineage, events = carry_out(runs, {"method": "auto", "few_shot": False, **left_out})
    assert lineage["recipe"].startswith("from a probe; ")
    assert lineage["start"]["reason"] == f"a probe of it has a cross-validated f1 of {lineage['probe']['f1']:.4f}"
    stages = [event["stage"] for event in events if "stage" in event]
    assert stages.index("probing") < stages.index("training")
    chosen = lineage["training"]
    assert (chosen["start_from"], chosen["few_shot"], chosen["validation"]) == ("probe", False, 0.0)
    assert (lineage["best_epoch"], lineage["validation_f1"]) == (chosen["epochs"], None)
    assert runs.registry.versions.get("runs", run.version or 0).metrics["f1"] > 0.9


def test_a_search_publishes_its_best_trial_ends_bad_ones_early_and_survives_failures(runs: Service) -> None:
    space = {"learning_rate": [1e-3, 1e-8, 2e-8, 3e-8], "stride": [8, 60], "max_length": [100]}
    # With this seed the best of the five comes first, and two fail: each failure costs a process.
    settings = {"epochs": 3, "seed": 42, "validation": 0.2, "search": {"trials": 5, "concurrent": 1, "space": space}}
    run, lineage, events = carry_out(runs, settings)
    trials = lineage["search"]["trials"]
    assert len(trials) == 5
    for trial in trials:
        assert trial["settings"]["learning_rate"] in space["learning_rate"]
        assert (trial["state"] == "failed") == (trial["settings"]["stride"] == 60)
    failed = [trial for trial in trials if trial["state"] == "failed"]
    assert {trial["reason"] for trial in failed} == {"training.stride: 60 is not allowed; at most 50, half of max_length"}
    tried = [trial for trial in trials if trial["state"] != "failed"]
    best = trials[lineage["search"]["best"]]
    assert best["f1"] == max(trial["f1"] for trial in tried)
    assert best["settings"] == {"learning_rate": 1e-3, "stride": 8, "max_length": 100}
    assert any(trial["state"] == "stopped" and trial["epochs"] < 3 for trial in tried)
    published = lineage["training"]
    assert {key: published[key] for key in best["settings"]} == best["settings"]
    assert published["search"] is None
    assert (lineage["validation_f1"], lineage["best_epoch"]) == (best["f1"], best["best_epoch"])
    version = runs.registry.versions.get("runs", run.version or 0)
    _, manifest = runs.storage.fetch(version, Path("unused: the storage is local"))
    assert (manifest.stride, manifest.max_length) == (8, 100)
    counted = [event["trial"] for event in events if "trials" in event]
    assert counted == sorted(counted)
    assert counted[-1] == 5
    told = [event for event in events if "best_f1" in event][-1]
    assert (told["best_f1"], told["best"]) == (best["f1"], best["settings"])


def test_a_search_whose_trials_all_fail_fails_with_the_reason(runs: Service) -> None:
    space = {"stride": [50, 60], "max_length": [64]}
    run = runs.await_run(runs.start_run("runs", *assignments({"search": {"trials": 2, "space": space}})))
    assert run.state is RunState.FAILED
    assert run.reason is not None
    assert run.reason.startswith("all 2 trials of the search failed: training.stride: ")
    assert "is not allowed; at most 32, half of max_length" in run.reason


def test_cancel_ends_a_search_with_its_trials(runs: Service) -> None:
    before = [version.number for version in runs.registry.versions.list("runs")]
    settings = {"epochs": 50, "early_stopping": 50, "search": {"trials": 4, "space": {"seed": [1, 2, 3, 4]}}}
    run_id = runs.start_run("runs", *assignments(settings))
    until(lambda: "best_f1" in runs.registry.runs.get(run_id).progress, 120, "a trial has told of its first epoch")
    assert runs.processes(TRIAL)
    runs.baton("cancel", run_id)
    until(lambda: not runs.drivers(run_id) and not runs.processes(TRIAL), 30, "driver and trials are gone")
    assert runs.registry.runs.get(run_id).state is RunState.CANCELLED
    assert [version.number for version in runs.registry.versions.list("runs")] == before


def test_cross_validation_publishes_a_version_that_was_trained_on_all_rows_for_the_median_epoch(runs: Service) -> None:
    run, lineage, events = carry_out(runs, {"folds": 3, "validation": None, "epochs": 2})
    folds = lineage["folds"]
    assert sum(folds["rows"]) == lineage["dataset"]["train_rows"]
    assert lineage["best_epoch"] == sorted(folds["best_epochs"])[1]
    assert lineage["validation_f1"] == pytest.approx(sum(folds["f1"]) / 3)
    assert folds["deviation"] >= 0
    assert {event["fold"] for event in events if "folds" in event} == {1, 2, 3}
    assert run.decision_id is not None


def test_few_shot_makes_a_version_without_a_training_process(runs: Service) -> None:
    run_id = runs.start_run("runs", *assignments({"few_shot": True, "validation": None}))
    run = runs.await_run(run_id)
    assert run.state is RunState.SUCCEEDED, run.reason
    assert runs.processes(WORKER) == []
    lineage = runs.registry.versions.get("runs", run.version or 0).lineage
    assert lineage["best_epoch"] == 0
    assert lineage["few_shot"]["strength"] > 0
    assert lineage["validation_f1"] > 2 / len(LABELS)


def test_adaptation_comes_first_lowers_its_loss_and_leaves_the_holdout_out(runs: Service, data: Path, tmp_path: Path) -> None:
    import json

    held = [json.loads(line)["text"] for line in (data / "holdout.jsonl").read_text().splitlines()]
    texts = [*held[:5], *(row["text"] for row in keyword_rows(150, LABELS, seed=21) if row["text"] not in held)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    adapt = {"data": str(tmp_path / "texts.txt"), "epochs": 2, "learning_rate": 1e-3}
    run, lineage, events = carry_out(runs, {"adapt": adapt, "epochs": 1})
    found = lineage["adaptation"]
    assert found["removed_leaks"] == 5
    assert found["texts"] + found["held_back"] + found["removed_duplicates"] == len(texts) - 5
    assert found["loss"] < found["loss_before"]
    stages = list(dict.fromkeys(event["stage"] for event in events if "stage" in event))
    assert stages.index("adapting") < stages.index("training")
    losses = [event["held_back_loss"] for event in events if "held_back_loss" in event]
    assert losses[-1] < losses[0]
    until(lambda: not (Path(runs.storage.runs_path) / run.id).exists(), 30, "the driver has cleared up after itself")
