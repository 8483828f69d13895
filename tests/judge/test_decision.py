"""Decisions as they are stored: two evaluations on one holdout, the sentence and the numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from baton.config.model_settings import GateSettings
from baton.errors import Conflict
from baton.store.records import Champion, Decision, DecisionKind, Evaluation, Verdict
from baton.tasks.classification import Classification, TextExample
from training.judge.decision import Contender, decide_match
from training.judge.holdout import AUDITED, DECLARED, describe_holdout

TASK = Classification((), 32)
POINTER = Champion(version=7, sequence=3)
LABELS = ("a", "b", "c", "d")
ROWS = [TextExample(text=f"text {number}", label=LABELS[number % 4]) for number in range(400)]
HOLDOUT = describe_holdout(Classification, ROWS, "5f" * 32)


def contender(version: int, right: int, labels: Sequence[str] = LABELS, holdout: str = HOLDOUT.hash) -> Contender:
    """A version that answers the first ``right`` rows rightly, and knows these labels, in this order."""
    names = [*labels, *sorted(set(LABELS) - set(labels))]
    place = {name: index for index, name in enumerate(names)}
    truth = np.array([place[row.label] for row in ROWS])
    wrong = np.array([place[LABELS[(number + 1) % 4]] for number in range(400)])
    statistics = np.stack([truth, np.where(np.arange(400) < right, truth, wrong)], axis=1).astype(np.int32)
    evaluation = Evaluation(
        id=version,
        model="m",
        version=version,
        holdout_hash=holdout,
        metrics={"labels": names},
        statistics=statistics,
        created_at=datetime.now(UTC),
    )
    return Contender(evaluation=evaluation, labels=labels)


def decide(candidate: Contender, champion: Contender | None, **more: object) -> Decision:
    arguments = {"pointer": POINTER, "number": 1, "policy": GateSettings(), **more}
    return decide_match(TASK, HOLDOUT, candidate, champion, **arguments).decision


def test_a_decision_holds_its_policy_its_pointer_and_its_numbers():
    policy = GateSettings(min_gain=0.01, confidence=0.9)
    decision = decide(contender(8, 380), contender(7, 300), policy=policy, number=3)
    assert (decision.verdict, decision.kind) == (Verdict.PROMOTE, DecisionKind.GATE)
    assert (decision.candidate, decision.champion, decision.champion_sequence) == (8, 7, 3)
    assert decision.policy == policy.model_dump(mode="json")
    numbers = decision.numbers
    assert numbers["gain"] == pytest.approx(numbers["f1"] - numbers["champion_f1"])
    assert 0 < numbers["gain_lower_bound"] < numbers["gain"]
    assert (numbers["match"], numbers["examples"], numbers["groups"], numbers["differing"]) == (3, 400, 400, 80)
    assert numbers["p"] == max(numbers["p_swap"], numbers["p_normal"]) <= numbers["allowed"]
    assert numbers["holdout_hash"] == HOLDOUT.hash
    for name in ("f1", "champion_f1"):
        low, high = numbers[f"{name}_interval"]
        assert low < numbers[name] < high
    assert json.loads(json.dumps(numbers, allow_nan=False))["labels"][0]["lost"] is False


def test_the_same_match_always_ends_the_same_way():
    assert decide(contender(8, 330), contender(7, 320)) == decide(contender(8, 330), contender(7, 320))


def test_versions_with_their_labels_in_another_order_are_compared_label_by_label():
    straight = decide(contender(8, 380), contender(7, 300)).numbers
    crossed = decide(contender(8, 380), contender(7, 300, ("d", "c", "b", "a"))).numbers
    assert crossed["p"] == straight["p"]
    assert crossed["gain"] == pytest.approx(straight["gain"])


@pytest.mark.parametrize("foreign", [8, 7])
def test_scores_on_another_holdout_are_not_compared(foreign):
    contenders = [contender(version, 300, holdout="00" * 32 if version == foreign else HOLDOUT.hash) for version in (8, 7)]
    with pytest.raises(Conflict, match=rf"^v{foreign} was evaluated on the holdout 000000000000, not on 5f5f5f5f5f5f"):
        decide(*contenders)


def test_labels_that_no_holdout_row_has_are_named_and_judge_nothing():
    with_more = decide(contender(8, 380, (*LABELS, "refund_v2")), contender(7, 300))
    assert with_more.numbers["unjudged_labels"] == ["refund_v2"]
    assert "No holdout row has the label 'refund_v2'" in with_more.sentence
    assert with_more.numbers["f1"] == decide(contender(8, 380), contender(7, 300)).numbers["f1"]


def test_a_candidate_with_new_labels_is_also_judged_on_those_that_both_know():
    decision = decide(contender(8, 390), contender(7, 300, ("a", "b", "c")))
    [part] = decision.numbers["parts"]
    assert (part["name"], part["groups"]) == ("labels that both versions know", 300)


def test_without_a_champion_a_candidate_is_a_first_version():
    decision = decide(contender(1, 380), None, pointer=Champion(version=None, sequence=0))
    assert (decision.verdict, decision.champion, decision.numbers["compared"]) == (Verdict.PROMOTE, None, False)
    assert "v1, the first version, F1" in decision.sentence


def test_a_champion_of_another_task_is_named_and_stays_in_the_decision():
    decision = decide(contender(8, 380), None)
    assert (decision.verdict, decision.champion, decision.champion_sequence) == (Verdict.PROMOTE, 7, 3)
    assert "the first version of its task (v7 has another one)" in decision.sentence


def test_held_out_corrections_are_reported_and_change_nothing_else():
    champion_loses = [contender(8, 400).evaluation, contender(7, 0).evaluation]
    plain = decide(contender(8, 310), contender(7, 320))
    told = decide(contender(8, 310), contender(7, 320), corrections=champion_loses)
    assert told.verdict is plain.verdict is Verdict.REJECT
    assert told.numbers["corrections"] == {"rows": 400, "f1": 1.0, "champion_f1": 0.0}
    assert told.sentence.endswith("On 400 held-out corrections, which do not decide, v8 has F1 1.000, v7 has F1 0.000.")
    assert {**told.numbers, "corrections": 0} == {**plain.numbers, "corrections": 0}


def test_a_holdout_that_has_lost_many_texts_is_told():
    told = decide(contender(8, 380), contender(7, 300), lost=0.2)
    assert told.sentence.endswith("The holdout has lost 20% of its texts since the data set before.")
    few = decide(contender(8, 380), contender(7, 300), lost=0.09)
    assert (few.numbers["lost"], "has lost" in few.sentence) == (0.09, False)
    assert "has lost" not in decide(contender(8, 380), contender(7, 300)).sentence


def test_groups_of_several_texts_are_called_groups():
    marks = [{"unit": f"customer {number // 4}", "slices": {}} for number in range(400)]
    grouped = describe_holdout(Classification, ROWS, HOLDOUT.hash, marks=marks)
    pair = (contender(8, 380), contender(7, 300))
    decision = decide_match(TASK, grouped, *pair, pointer=POINTER, number=1, policy=GateSettings()).decision
    assert "on 100 groups, 20 of them answered differently" in decision.sentence
    assert (decision.numbers["unit"], decision.numbers["examples"]) == ("group", 400)
    strict = decide_match(TASK, grouped, *pair, pointer=POINTER, number=1, policy=GateSettings(min_rows=101)).decision
    assert "a holdout needs 101 groups that differ (gate.min_rows); this one has 100." in strict.sentence


def test_labels_that_only_one_version_knows_are_named():
    renamed = decide(contender(8, 380, ("a", "b", "c", "D")), contender(7, 300))
    assert "It adds the label 'D' and no longer knows the label 'd'." in renamed.sentence
    shrunk = decide(contender(8, 380, ("a", "b")), contender(7, 300))
    assert "It no longer knows the labels 'c', 'd'." in shrunk.sentence
    assert " It " not in decide(contender(8, 380), contender(7, 300)).sentence


def test_a_holdout_knows_its_groups_and_which_rows_were_audited():
    rows = [*ROWS[:3], TextExample(text="Text 0", label="a")]
    holdout = describe_holdout(Classification, rows, "h", audited=1)
    assert holdout.groups.tolist() == [0, 1, 2, 0]
    assert (holdout.rows, len(holdout.fingerprints)) == (4, 3)
    assert {name: rows.tolist() for name, rows in holdout.parts.items()} == {
        DECLARED: [True, True, True, False],
        AUDITED: [False, False, False, True],
    }
    assert describe_holdout(Classification, rows, "h").parts == {}
    assert holdout.known_to({"a", "b"}).tolist() == [True, True, False, True]
