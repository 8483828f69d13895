"""Data sets in the pipeline: frozen with the registry's feedback and ledger; versions are compared on the newest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from baton.config.model_settings import FeedbackSettings, GateSettings
from baton.errors import Conflict
from baton.store.feedback.audit import Drawn
from baton.store.feedback.correction import Correction
from baton.store.records import DatasetVersion, ModelVersion, RunStage
from baton.text.normal_form import fingerprint
from tests.support.audit import drawn_text
from tests.support.growing import correct, freeze_recorded
from tests.support.tiny import save_classifier
from tests.support.world import LABELS, World
from training import freezing, matches, reports
from training.context import Clock

pytestmark = pytest.mark.usefixtures("one_thread")

NEW_TRAIN = {"text": "a new text", "label": "billing"}


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


def test_a_holdout_that_is_too_small_for_the_gate_is_told_before_anything_trains(world: World):
    assert freeze(world).remarks == ()
    context = world.context()
    strict = context.declared.model_copy(update={"gate": GateSettings(min_rows=1000)})
    [remark] = freezing.freeze(replace(context, declared=strict)).version.remarks
    assert remark.startswith("the holdout has 120 rows, and the gate asks for 1000 texts that differ (gate.min_rows)")


def publish(world: World, name: str) -> ModelVersion:
    """A classifier with a random head, published with its scores on the world's first holdout."""
    return world.publish(save_classifier(world.base, LABELS, world.directory / name))


def publish_constant(world: World, answer: str) -> ModelVersion:
    """A classifier that gives every text the same label."""
    directory = save_classifier(world.base, LABELS, world.directory / answer)
    path = str(directory / "model.safetensors")
    weights = load_file(path)
    weights["classifier.bias"] = torch.tensor([100.0 if label == answer else 0.0 for label in LABELS])
    save_file(weights, path, {"format": "pt"})
    return world.publish(directory)


class Audit:
    """Fifty texts that the audit of ``m`` has drawn, as replicas draw them."""

    def __init__(self, world: World) -> None:
        self._registry = world.registry
        self._texts = [f"an audited text {number}" for number in range(50)]
        drawn = [Drawn(keys=(fingerprint(text),), content_hash=fingerprint(text), input={"text": text}) for text in self._texts]
        assert world.registry.audit.draw("m", drawn) == 50

    def label(self, count: int) -> None:
        """Label the next ``count`` texts."""
        now, self._texts = self._texts[:count], self._texts[count:]
        self._registry.feedback.add(
            "m",
            [
                Correction(
                    client_id=None,
                    request_id=None,
                    position=0,
                    example={"text": text, "label": "billing"},
                    audited_as=fingerprint(text),
                )
                for text in now
            ],
        )


# --- freezing ------------------------------------------------------------------------------------------------------------


def test_the_libraries_of_training_are_loaded_only_after_the_data_are_frozen() -> None:
    code = "import sys; from training import pipeline; print({'torch', 'transformers', 'ray.train'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.strip() == "set()"


def test_each_data_set_is_recorded_with_its_splits_and_all_feedback_so_far(world):
    first = freeze(world)
    correct(world.registry, "m", NEW_TRAIN, {"text": drawn_text(world.registry, "m"), "label": "billing"})
    second = freeze(world)
    assert [(it.number, it.previous, it.feedback_until) for it in (first, second)] == [(1, None, 0), (2, 1, 2)]
    assert (second.train_feedback, second.corrections) == (1, 1)
    assert second.holdout_hash == first.holdout_hash
    assert world.registry.datasets.latest("m") == second
    assert len(world.registry.datasets.ledger("m")) == second.train_rows + second.holdout_rows + second.corrections


def test_audited_requests_judge_once_their_batch_is_labelled(world):
    first = freeze(world)
    audit = Audit(world)
    audit.label(44)
    assert freeze(world).holdout_hash == first.holdout_hash
    audit.label(1)
    grown = freeze(world)
    assert (grown.holdout_audited, grown.holdout_rows) == (45, first.holdout_rows + 45)
    assert grown.counts["holdout"]["audit"] == {"billing": 45}


def test_a_run_on_other_data_is_judged_like_all_others_and_leaves_no_other_judge_behind(world):
    """`--set data.train=…` used to draw the holdout from the other file (review H7)."""
    declared = world.settings()
    data = declared.data.model_copy(update={"holdout": 0.2})
    declared = declared.model_copy(update={"data": data})
    usual = freeze_recorded(world.registry, declared, world.storage)
    write(world, "tiny", read(world, "train")[:8])
    tiny = data.model_copy(update={"train": str(world.directory / "tiny.jsonl")})
    context = replace(world.context(), settings=declared.model_copy(update={"data": tiny}), declared=declared)
    experiment = freezing.freeze(context).version
    assert experiment.holdout_hash == usual.holdout_hash
    assert experiment.train_rows < 9 < usual.train_rows
    assert experiment.sources == {"train": tiny.train, "holdout": data.holdout_source}


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
    with pytest.raises(Conflict, match=r"1 text would change splits, .* from holdout to train"):
        freeze(world)
    assert world.registry.datasets.latest("m").number == 1


# --- judging -------------------------------------------------------------------------------------------------------------


def test_a_match_is_played_on_the_newest_holdout_by_both_versions(world):
    freeze(world)
    champion, candidate = publish(world, "champion"), publish(world, "candidate")
    world.make_champion(champion)
    write(world, "holdout", [*read(world, "holdout"), {"text": "one more", "label": "billing"}])
    newest = freeze(world)
    decision = matches.judge(world.settings(), candidate.number, world.registry, world.storage)
    assert (decision.candidate, decision.champion, decision.champion_sequence) == (candidate.number, champion.number, 1)
    assert (decision.numbers["match"], decision.numbers["compared"]) == (1, True)
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
    decision = matches.judge(world.settings(), version.number, world.registry, world.storage)
    assert decision.numbers["holdout_hash"] == first.holdout_hash


def test_without_a_recorded_data_set_a_version_is_judged_on_its_own(world):
    version = publish(world, "version")
    assert world.registry.datasets.latest("m") is None
    decision = matches.judge(world.settings(), version.number, world.registry, world.storage)
    assert decision.numbers["holdout_hash"] == world.dataset.version.holdout_hash


def test_where_train_alone_grew_the_known_evaluation_counts(world):
    freeze(world)
    version = publish(world, "version")
    known = world.registry.evaluations.get("m", version.number, world.dataset.version.holdout_hash)
    correct(world.registry, "m", NEW_TRAIN)
    assert freeze(world).holdout_hash == world.dataset.version.holdout_hash
    matches.judge(world.settings(), version.number, world.registry, world.storage)
    assert world.registry.evaluations.get("m", version.number, known.holdout_hash).created_at == known.created_at


def test_every_report_of_an_evaluation_names_the_version(world):
    dataset, version = freeze(world), publish(world, "candidate")
    reports: list[tuple[RunStage, dict[str, Any]]] = []
    clock = Clock(lambda stage, progress: reports.append((stage, dict(progress))))
    context = replace(world.context(), clock=clock)
    matches.evaluate_version(context, version, world.dataset.holdout, "a holdout of its own")
    assert {stage for stage, _ in reports} == {RunStage.EVALUATING}
    assert {progress["evaluated_version"] for _, progress in reports} == {version.number}
    assert reports[-1][1]["done"] == reports[-1][1]["total"] == dataset.holdout_rows


# --- matches -------------------------------------------------------------------------------------------------------------


def test_every_candidate_is_one_more_match_and_the_same_one_is_none(world):
    freeze(world)
    world.make_champion(publish(world, "champion"))
    numbers = []
    for number in (publish(world, "second").number, publish(world, "third").number, 2):
        decision = matches.judge(world.settings(), number, world.registry, world.storage)
        numbers.append(decision.numbers["match"])
    assert numbers == [1, 2, 1]


def test_a_report_with_both_versions_answers_lies_beside_the_decision(world):
    freeze(world)
    champion, candidate = publish_constant(world, "billing"), publish_constant(world, "bug")
    world.make_champion(champion)
    decision = matches.judge(world.settings(), candidate.number, world.registry, world.storage)
    report = json.loads(world.storage.read_report(decision.numbers["report"]))
    assert (report["candidate"], report["champion"]) == (2, 1)
    assert report["rows"][0]["gain"] == decision.numbers["gain"]
    assert len(report["changed"]) == 10
    assert {(one["answer"], one["champion_answer"]) for one in report["changed"]} == {("bug (1.00)", "billing (1.00)")}
    assert decision.numbers["cost"] == report["cost"][0]
    assert all(cost["megabytes"] > 0 and cost["latency_ms"] > 0 for cost in report["cost"])


def test_held_out_corrections_are_reported_and_decide_nothing(world):
    row = {"text": drawn_text(world.registry, "m"), "label": "billing"}
    freeze(world)
    world.make_champion(publish(world, "champion"))
    candidate = publish(world, "candidate")
    before = matches.judge(world.settings(), candidate.number, world.registry, world.storage)
    correct(world.registry, "m", row)
    freeze(world)
    decision = matches.judge(world.settings(), candidate.number, world.registry, world.storage)
    assert decision.numbers["corrections"]["rows"] == 1
    assert "On 1 held-out corrections, which do not decide, v2 has F1" in decision.sentence
    assert {**decision.numbers, "corrections": None} == {**before.numbers, "corrections": None}


def test_a_promotion_is_decided_by_the_policy_of_the_service_that_asks(world):
    """The stored settings may be those of somebody else (review M6)."""
    freeze(world)
    candidate = publish(world, "candidate")
    ours = world.settings().model_copy(update={"gate": GateSettings(min_f1=0.77)})
    decision = matches.judge(ours, candidate.number, world.registry, world.storage)
    assert decision.policy["min_f1"] == 0.77


def test_a_champion_of_another_task_is_no_opponent(world):
    """Such a run used to fail after its training, when it evaluated the champion (review H12)."""
    freeze(world)
    champion, candidate = publish(world, "champion"), publish(world, "candidate")
    world.make_champion(champion)
    context = world.context()
    lineage = {**champion.lineage, "task": "ner"}
    other = replace(world.registry.versions.get("m", champion.number), lineage=lineage)
    assert matches.comparable(context, other) is False
    assert matches.comparable(context, champion) is True
    assert matches.comparable(context, replace(champion, lineage={})) is True  # Baton 0.1 stored no task
    assert candidate.lineage["task"] == "classification"


def test_rows_that_feedback_put_into_the_holdout_of_an_old_data_set_do_not_judge(world):
    dataset, version = freeze(world), publish(world, "version")
    judge = matches.Judge(version=replace(dataset, holdout_feedback=20), examples=world.dataset.holdout)
    evaluation = matches.evaluate_version(world.context(), version, judge.examples, dataset.holdout_hash)
    decision = matches.decide(world.context(), version, evaluation, judge)
    assert decision.numbers["examples"] == dataset.holdout_rows - 20 == 100


# --- groups, slices and budgets on the way to a decision -----------------------------------------------------------------


def test_slices_and_groups_of_the_declared_file_reach_the_gate_also_when_a_version_is_judged_later(world):
    rows = [{**row, "language": ("de", "en")[number % 2]} for number, row in enumerate(read(world, "holdout"))]
    write(world, "holdout", rows)
    data = world.settings().data.model_copy(update={"slices": ("language",)})
    settings = world.settings().model_copy(update={"data": data})
    plain = freeze(world)
    sliced = freeze_recorded(world.registry, settings, world.storage)
    assert (plain.holdout_hash, plain.marks_hash) == (sliced.holdout_hash, "")
    world.make_champion(publish(world, "champion"))
    decision = matches.judge(settings, publish(world, "candidate").number, world.registry, world.storage)
    assert {it["slice"] for it in decision.numbers["slices"]} == {"language de", "language en"}
    assert decision.numbers["marks_hash"] == sliced.marks_hash
    find = partial(world.registry.gate_decision, "m", 2, 1, decision.policy, holdout_hash=sliced.holdout_hash)
    assert find(marks_hash=sliced.marks_hash) == decision
    assert find(marks_hash="") is None, "a decision without the slices must not be carried out under them"


def test_a_version_over_its_budget_is_refused_and_plays_no_match(world):
    freeze(world)
    world.make_champion(publish(world, "champion"))
    number = publish(world, "candidate").number
    tight = world.settings().model_copy(update={"gate": GateSettings(max_megabytes=0.001)})
    decision = matches.judge(tight, number, world.registry, world.storage)
    assert decision.numbers["reason"] == "too large"
    assert "MB, and 0.001 are allowed (gate.max_megabytes). v1 stays." in decision.sentence
    assert world.registry.matches.played("m", 1) == 0
    slow = world.settings().model_copy(update={"gate": GateSettings(max_latency_ms=1e-6)})
    assert matches.judge(slow, number, world.registry, world.storage).numbers["reason"] == "too slow"
    wide = world.settings().model_copy(update={"gate": GateSettings(max_megabytes=1e6, max_latency_ms=1e6)})
    assert matches.judge(wide, number, world.registry, world.storage).numbers["match"] == 1


def test_a_decision_is_stored_also_if_its_report_cannot_be(world, monkeypatch):
    def broken(*_: Any, **__: Any) -> dict[str, Any]:
        raise RuntimeError("a drop-in task that counts otherwise")

    monkeypatch.setattr(reports, "make_report", broken)
    freeze(world)
    world.make_champion(publish(world, "champion"))
    decision = matches.judge(world.settings(), publish(world, "candidate").number, world.registry, world.storage)
    assert (decision.numbers["report"], decision.numbers["match"]) == (None, 1)


def test_answers_are_kept_masked_and_those_of_other_patterns_are_not_shown(world):
    freeze(world)
    champion, candidate = publish_constant(world, "billing"), publish_constant(world, "bug")
    world.make_champion(champion)
    settings = world.settings()
    matches.judge(settings, candidate.number, world.registry, world.storage)
    masking = settings.model_copy(update={"feedback": FeedbackSettings(redact=(r"\w+",))})
    decision = matches.judge(masking, candidate.number, world.registry, world.storage)
    changed = json.loads(world.storage.read_report(decision.numbers["report"]))["changed"]
    assert changed
    assert all(one["answer"] is None and one["champion_answer"] is None and "█" in one["text"] for one in changed)


def test_a_holdout_that_has_lost_texts_since_the_data_set_before_is_told_once(world):
    freeze(world)
    candidate = publish(world, "candidate")
    write(world, "holdout", read(world, "holdout")[:90])
    smaller = freeze(world)
    assert (smaller.holdout_rows, smaller.previous) == (90, 1)
    decision = matches.judge(world.settings(), candidate.number, world.registry, world.storage)
    assert decision.numbers["lost"] == pytest.approx(0.25)
    assert "The holdout has lost 25% of its texts since the data set before." in decision.sentence
    write(world, "train", [*read(world, "train"), NEW_TRAIN])
    freeze(world)
    later = matches.judge(world.settings(), candidate.number, world.registry, world.storage)
    assert later.numbers["lost"] == 0
