"""Data sets in the pipeline: frozen with the registry's feedback and ledger; versions are compared on the newest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.errors import Conflict
from baton.store.records import DatasetVersion, ModelVersion, RunStage
from tests.support.growing import correct, freeze_recorded, text_for
from tests.support.tiny import save_classifier
from tests.support.world import LABELS, World
from training import pipeline

pytestmark = pytest.mark.usefixtures("one_thread")

NEW_TRAIN, NEW_HOLDOUT = ({"text": text_for(split, 0.1), "label": "billing"} for split in ("train", "holdout"))


@pytest.fixture
def world(tiny_base: Path, tmp_path: Path) -> World:
    world = World(tiny_base, tmp_path, rows=60)
    world.registry.declare_model("m", world.settings().model_dump(mode="json"))
    return world


def freeze(world: World) -> DatasetVersion:
    return freeze_recorded(world.registry, world.settings(), world.storage)


def write(world: World, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    (world.directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(world: World, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (world.directory / f"{name}.jsonl").read_text().splitlines()]


def publish(world: World, name: str) -> ModelVersion:
    """A classifier with a random head, published with its scores on the world's first holdout."""
    return world.publish(save_classifier(world.base, LABELS, world.directory / name))


# --- freezing ------------------------------------------------------------------------------------------------------------


def test_each_data_set_is_recorded_with_its_sides_and_all_feedback_so_far(world):
    first = freeze(world)
    correct(world.registry, "m", NEW_TRAIN, NEW_HOLDOUT)
    second = freeze(world)
    assert [(it.number, it.previous, it.feedback_until) for it in (first, second)] == [(1, None, 0), (2, 1, 2)]
    assert (second.train_feedback, second.holdout_feedback) == (1, 1)
    assert world.registry.datasets.latest("m") == second
    assert len(world.registry.datasets.ledger("m")) == second.train_rows + second.holdout_rows


def test_feedback_that_changes_nothing_leaves_the_number_and_is_new_no_more(world):
    first = freeze(world)
    correct(world.registry, "m", read(world, "train")[0], {**read(world, "holdout")[0], "label": "bug"})
    again = freeze(world)
    assert (again.number, again.hash, again.feedback_until) == (1, first.hash, 2)
    assert world.registry.feedback.count_after("m", world.registry.datasets.latest("m").feedback_until) == 0


def test_a_correction_that_is_taken_back_is_new_no_more_either(world):
    row = read(world, "train")[0]
    other = next(label for label in LABELS if label != row["label"])
    numbers = []
    for label in (row["label"], other, row["label"]):
        correct(world.registry, "m", {**row, "label": label})
        numbers.append(freeze(world).number)
    assert numbers == [1, 2, 1]
    assert world.registry.feedback.count_after("m", world.registry.datasets.latest("m").feedback_until) == 0


def test_what_one_run_trained_on_does_not_judge_in_the_next(world):
    freeze(world)
    write(world, "holdout", [*read(world, "holdout"), read(world, "train")[0]])
    version = freeze(world)
    assert version.quarantined_rows == 1
    assert version.quarantined[0]["reason"] == "its text was in the train split of an earlier data set"


def test_a_past_that_somebody_else_wrote_meanwhile_is_a_conflict_and_nothing_trains(world, monkeypatch):
    freeze(world)
    correct(world.registry, "m", NEW_TRAIN)
    monkeypatch.setattr(world.registry.datasets, "ledger", lambda model: {})  # what was read before the other run wrote
    write(world, "train", [*read(world, "train"), read(world, "holdout")[0]])
    write(world, "holdout", read(world, "holdout")[1:])
    with pytest.raises(Conflict, match=r"1 text\(s\) would change splits, .* from holdout to train"):
        freeze(world)
    assert world.registry.datasets.latest("m").number == 1


# --- judging -------------------------------------------------------------------------------------------------------------


def test_a_match_is_played_on_the_newest_holdout_by_both_sides(world):
    freeze(world)
    champion, candidate = publish(world, "champion"), publish(world, "candidate")
    world.make_champion(champion)
    correct(world.registry, "m", NEW_HOLDOUT)
    newest = freeze(world)
    decision = pipeline.judge("m", candidate.number, world.registry, world.storage)
    assert (decision.candidate, decision.champion) == (candidate.number, champion.number)
    assert decision.numbers["holdout_hash"] == newest.holdout_hash
    for version in (champion, candidate):
        evaluation = world.registry.evaluations.get("m", version.number, newest.holdout_hash)
        assert len(evaluation.statistics) == newest.holdout_rows == 121


def test_a_match_is_played_on_data_that_came_back_and_not_on_the_highest_number(world):
    rows = read(world, "holdout")
    first = freeze(world)
    version = publish(world, "version")
    write(world, "holdout", rows[1:])
    assert freeze(world).number == 2
    write(world, "holdout", rows)
    assert freeze(world).number == 1
    decision = pipeline.judge("m", version.number, world.registry, world.storage)
    assert decision.numbers["holdout_hash"] == first.holdout_hash


def test_without_a_recorded_data_set_a_version_is_judged_on_its_own(world):
    version = publish(world, "version")
    assert world.registry.datasets.latest("m") is None
    decision = pipeline.judge("m", version.number, world.registry, world.storage)
    assert decision.numbers["holdout_hash"] == world.dataset.version.holdout_hash


def test_where_train_alone_grew_the_known_evaluation_counts(world):
    freeze(world)
    version = publish(world, "version")
    known = world.registry.evaluations.get("m", version.number, world.dataset.version.holdout_hash)
    correct(world.registry, "m", NEW_TRAIN)
    assert freeze(world).holdout_hash == world.dataset.version.holdout_hash
    pipeline.judge("m", version.number, world.registry, world.storage)
    assert world.registry.evaluations.get("m", version.number, known.holdout_hash).created_at == known.created_at


def test_every_report_of_an_evaluation_names_the_version(world):
    dataset, version = freeze(world), publish(world, "candidate")
    reports: list[tuple[RunStage, dict[str, Any]]] = []
    clock = pipeline.Clock(lambda stage, progress: reports.append((stage, dict(progress))))
    pipeline.evaluate_version(replace(world.context(), clock=clock), version, dataset.uri, "a holdout of its own")
    assert {stage for stage, _ in reports} == {RunStage.EVALUATING}
    assert {progress["evaluated_version"] for _, progress in reports} == {version.number}
    assert reports[-1][1]["done"] == reports[-1][1]["total"] == dataset.holdout_rows
