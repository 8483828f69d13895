"""The multi-label task: rows it accepts, thresholds that decide, and that its scores are scikit-learn's."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import TextClassificationOutputElement
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import expit, logit, softmax
from sklearn import metrics as reference

from baton.artifacts.storage import Storage
from baton.config.model_settings import DataSettings
from baton.errors import DataError
from baton.tasks import task_type
from baton.tasks.multi_label import MultiLabel, MultiLabelExample, MultiLabelOptions, MultiLabelScores, best_threshold
from baton.tasks.text_classifier import TextInput
from baton.tasks.windows import Windows
from training.data import datasets, sources
from training.data.splits import split_rows

LABELS = ("a", "b", "c", "d")


def named(row: Sequence[Any], labels: Sequence[str] = LABELS) -> list[str]:
    return [label for label, applies in zip(labels, row, strict=False) if applies]


def examples(truth: np.ndarray, labels: Sequence[str] = LABELS) -> list[MultiLabelExample]:
    return [MultiLabelExample(text=f"text {row}", label=named(mine, labels)) for row, mine in enumerate(truth)]


def decode(task: MultiLabel, logits: Any, **options: Any) -> list[MultiLabelScores]:
    """Answers to rows of logits [n, labels], as the predictor would have them decoded."""
    rows = [np.asarray(row, dtype=np.float32) for row in logits]
    windows = Windows(
        inputs=[TextInput(text="x")] * len(rows), ids=[[1]] * len(rows), type_ids=[[0]] * len(rows), owner=range(len(rows))
    )
    return task.decode(windows, {"logits": rows}, [MultiLabelOptions(**options)] * len(rows))


def outputs(predicted: np.ndarray) -> list[MultiLabelScores]:
    """Answers that assign just the labels that are 1."""
    return decode(MultiLabel(LABELS[: predicted.shape[1]], 32), 8.0 * np.asarray(predicted) - 4)


@st.composite
def judged(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction [n, labels] as 0 and 1; labels that never occur and rows without any are common."""
    rows, size = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    source = np.random.default_rng(draw(st.integers(0, 2**32)))
    rates = source.choice([0.0, 0.2, 0.5, 0.9], (2, 1, size))
    truth, predicted = (source.random((2, rows, size)) < rates).astype(int)
    return truth, predicted


# --- scores --------------------------------------------------------------------------------------------------------------


def test_the_task_is_known_by_its_name():
    assert task_type("multi_label") is MultiLabel


@pytest.mark.parametrize("truth", [[[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], [[1, 0, 0, 0]]])
def test_perfect_outputs_score_one(truth):
    found = MultiLabel(LABELS, 32).score(outputs(np.array(truth)), examples(np.array(truth))).metrics
    assert [found[name] for name in ("f1", "macro_f1", "precision", "recall", "exact_match", "hamming_loss")] == [
        1,
        1,
        1,
        1,
        1,
        0,
    ]


def test_outputs_that_are_always_wrong_score_zero():
    truth = np.array([[1, 0, 0, 1], [0, 0, 1, 0]])
    found = MultiLabel(LABELS, 32).score(outputs(1 - truth), examples(truth)).metrics
    assert [found[name] for name in ("f1", "macro_f1", "precision", "recall", "exact_match", "hamming_loss")] == [
        0,
        0,
        0,
        0,
        0,
        1,
    ]


@settings(max_examples=150, deadline=None)
@given(judged())
def test_scores_are_those_of_scikit_learn(sides):
    truth, predicted = sides
    size = truth.shape[1]
    found = MultiLabel(LABELS[:size], 32).score(outputs(predicted), examples(truth)).metrics
    # a column of zeros keeps scikit-learn from reading a single label as a binary problem
    wide = [np.pad(side, ((0, 0), (0, 1))) for side in (truth, predicted)]
    micro = reference.precision_recall_fscore_support(*wide, average="micro", zero_division=0)
    assert [found[name] for name in ("precision", "recall", "f1")] == pytest.approx(micro[:3])
    occurring = np.flatnonzero(truth.any(axis=0) | predicted.any(axis=0))
    macro = reference.f1_score(*wide, labels=occurring, average="macro", zero_division=0) if len(occurring) else 0.0
    assert found["macro_f1"] == pytest.approx(macro)
    assert found["exact_match"] == pytest.approx(reference.accuracy_score(*wide))
    assert found["hamming_loss"] == pytest.approx(reference.hamming_loss(*wide) * (size + 1) / size)
    each = reference.precision_recall_fscore_support(*wide, average=None, zero_division=0)
    for position, label in enumerate(LABELS[:size]):
        names = ("precision", "recall", "f1", "support")
        assert [found["per_class"][label][name] for name in names] == pytest.approx([column[position] for column in each])
    assert found["examples"] == len(truth)


def test_a_label_that_the_version_does_not_know_counts_as_missed():
    truth, predicted = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]]), np.array([[1, 0], [0, 1], [0, 0]])
    task = MultiLabel(("a", "b"), 32)
    score = task.score(outputs(predicted), examples(truth))
    found = score.metrics
    wide = np.pad(predicted, ((0, 0), (0, 1)))
    assert found["f1"] == pytest.approx(reference.f1_score(truth, wide, average="micro"))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(truth, wide, average="macro", zero_division=0))
    assert (found["precision"], found["recall"]) == (1, 0.5)
    assert found["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 2}
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert score.statistics.tolist() == [[1, 1, 1], [1, 1, 2], [0, 0, 1]]


def test_a_label_that_nobody_names_does_not_lower_the_macro_f1():
    truth = np.array([[1, 0, 0, 0], [0, 1, 0, 0]])
    assert MultiLabel(LABELS, 32).score(outputs(truth), examples(truth)).metrics["macro_f1"] == 1


def test_metrics_are_plain_values_that_json_takes():
    truth = np.array([[1, 0, 1, 0], [0, 0, 0, 0]])
    found = MultiLabel(LABELS, 32).score(outputs(truth), examples(truth)).metrics
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_scores_do_not_depend_on_how_many_labels_an_answer_shows_as_long_as_it_shows_those_that_apply():
    truth = np.array([[1, 0, 0, 0], [0, 1, 0, 0]])
    task = MultiLabel(LABELS, 32)
    cut = decode(task, 8.0 * truth - 4, top_k=1)
    assert task.score(cut, examples(truth)).metrics == task.score(outputs(truth), examples(truth)).metrics


# --- the measured metric -------------------------------------------------------------------------------------------------


def test_statistics_are_the_right_the_predicted_and_the_true_labels_of_each_row():
    truth, predicted = np.array([[1, 1, 0, 0], [0, 0, 0, 0]]), np.array([[0, 1, 1, 1], [0, 0, 0, 0]])
    statistics = MultiLabel(LABELS, 32).score(outputs(predicted), examples(truth)).statistics
    assert statistics.dtype == np.int32
    assert statistics.tolist() == [[1, 3, 2], [0, 0, 0]]


@settings(max_examples=60, deadline=None)
@given(judged(), st.integers(0, 2**32))
def test_the_measured_metric_of_repeated_rows_is_scikit_learns_micro_f1_of_them(sides, seed):
    truth, predicted = sides
    rows, size = truth.shape
    task = MultiLabel(LABELS[:size], 32)
    score = task.score(outputs(predicted), examples(truth))
    metric = task.measure(score.metrics, score.statistics)
    assert metric.value() == score.metrics["f1"]
    wide = [np.pad(side, ((0, 0), (0, 1))) for side in sides]
    drawn = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=5)
    for times in [np.ones(rows, dtype=int), *drawn]:
        repeated = np.repeat(np.arange(rows), times)
        expected = reference.f1_score(*(side[repeated] for side in wide), average="micro", zero_division=0)
        assert metric.part(repeated).value() == pytest.approx(expected)


def test_the_measured_metric_counts_a_large_holdout_exactly():
    source = np.random.default_rng(0)
    truth, predicted = source.random((2, 20_000, 77)) < 0.03
    statistics = np.stack([(truth & predicted).sum(1), predicted.sum(1), truth.sum(1)], axis=1).astype(np.int32)
    found = MultiLabel([str(label) for label in range(77)], 32).measure({}, statistics).value()
    assert found == pytest.approx(2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()), abs=1e-15)


# --- calibration ---------------------------------------------------------------------------------------------------------


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n] with many ties, and whether each row is true: never none of them."""
    values = draw(
        st.lists(
            st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.45, 0.5, 0.55, 0.7, 0.95, 1.0]) | st.floats(0, 1), min_size=1, max_size=30
        )
    )
    truth = draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)).filter(any))
    return np.array(values), np.array(truth)


def f1_at(threshold: float, scores: np.ndarray, truth: np.ndarray) -> float:
    assigned = scores >= threshold
    return float(2 * (assigned & truth).sum() / (assigned.sum() + truth.sum()))


@settings(max_examples=300, deadline=None)
@given(scored())
def test_no_other_threshold_gives_a_better_f1(rows):
    scores, truth = rows
    threshold = best_threshold(scores, truth)
    everywhere = [0.0, *scores, *np.nextafter(scores, 2)]  # each way to part the rows
    assert f1_at(threshold, scores, truth) == max(f1_at(other, scores, truth) for other in everywhere)


@settings(max_examples=300, deadline=None)
@given(scored())
def test_of_equally_good_thresholds_the_one_nearest_to_a_half_is_taken(rows):
    scores, truth = rows
    threshold = best_threshold(scores, truth)
    assert 0 <= threshold <= 1
    distinct = sorted({0.0, *scores.tolist()})
    middles = [(low + high) / 2 for low, high in itertools.pairwise(distinct)]
    best = f1_at(threshold, scores, truth)
    as_good = [middle for middle in middles if f1_at(middle, scores, truth) == best]
    assert all(abs(threshold - 0.5) <= abs(middle - 0.5) for middle in as_good)


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        ([0.9, 0.7, 0.2, 0.1], [1, 1, 0, 0], (0.7 + 0.2) / 2),
        ([0.2, 0.1], [1, 0], (0.2 + 0.1) / 2),
        ([0.9, 0.8, 0.7], [1, 1, 1], 0.35),  # all of them: between the lowest and 0
        ([0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0], 0.25),  # equal scores stand on one side
        ([0.9, 0.7, 0.6, 0.3], [1, 0, 0, 1], (0.9 + 0.7) / 2),  # all rows would be as good: 2/3, at 0.15
        ([0.9, 0.8, 0.6, 0.4], [1, 0, 0, 1], 0.2),  # 0.85 would be as good
        ([1.0, 0.5, 0.5, 0.5], [1, 0, 0, 1], 0.75),  # 0.25 is as good and as near
        ([0.0, 0.0], [1, 0], 0.0),
        ([1.0], [1], 0.5),
        ([0.9, 0.1], [0, 0], 0.5),  # nothing true to learn from
    ],
)
def test_the_threshold_lies_in_the_middle_between_the_scores_that_it_parts(scores, truth, expected):
    assert best_threshold(np.array(scores), np.array(truth, dtype=bool)) == pytest.approx(expected)


def test_a_threshold_parts_even_neighbouring_floats():
    """The middle of two of them is one of them: of three in a row, once the lower and once the higher."""
    first, second, third = 0.3, float(np.nextafter(0.3, 1)), float(np.nextafter(np.nextafter(0.3, 1), 1))
    for low, high in ((first, second), (second, third)):
        threshold = best_threshold(np.array([low, high]), np.array([False, True]))
        assert [low >= threshold, high >= threshold] == [False, True]


def test_each_label_gets_its_own_threshold_and_one_without_positives_keeps_a_half():
    task = MultiLabel(("a", "b", "c"), 32)
    scores = np.array([[0.9, 0.3, 0.9], [0.8, 0.2, 0.1], [0.1, 0.1, 0.8]])
    truth = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    found = task.calibrate(decode(task, logit(scores)), examples(truth))
    assert found == {"a": pytest.approx(0.85), "b": pytest.approx(0.15), "c": 0.5}
    assert json.loads(json.dumps(found)) == found


def test_a_calibrated_version_assigns_what_its_validation_rows_asked_for():
    """A model that is right about the order of scores and wrong about their height."""
    source = np.random.default_rng(0)
    truth = source.random((200, 4)) < 0.2
    logits = np.where(truth, -2.0, -5.0) + source.random((200, 4))
    plain = MultiLabel(LABELS, 32)
    before = decode(plain, logits)
    assert plain.score(before, examples(truth)).metrics["recall"] == 0
    calibrated = MultiLabel(LABELS, 32, calibration=plain.calibrate(before, examples(truth)))
    after = decode(calibrated, logits)
    assert calibrated.score(after, examples(truth)).metrics["f1"] == 1
    assert [output.scores for output in before] == [output.scores for output in after]


def test_among_many_rows_no_threshold_of_a_fine_grid_is_better():
    source = np.random.default_rng(1)
    scores = source.random(20_000)
    truth = source.random(20_000) < scores
    threshold = best_threshold(scores, truth)
    assert f1_at(threshold, scores, truth) >= max(f1_at(other, scores, truth) for other in np.linspace(0, 1, 500))


# --- decoding ------------------------------------------------------------------------------------------------------------


def test_each_label_is_scored_on_its_own_best_first():
    [output] = decode(MultiLabel(LABELS[:3], 32), [[0.5, 2.0, -1.0]])
    assert output.labels == ("b", "a", "c")
    assert output.scores == pytest.approx(expit([2.0, 0.5, -1.0]))
    assert output.assigned == (True, True, False)
    assert output.applying == ("b", "a")


@pytest.mark.parametrize(("function", "scores"), [("softmax", softmax([2.0, 0.5, -1.0])), ("none", [2.0, 0.5, -1.0])])
def test_thresholds_are_held_against_the_sigmoid_whatever_scores_are_shown(function, scores):
    task = MultiLabel(LABELS[:3], 32, calibration={"a": 0.7, "b": 0.2, "c": 0.2})
    [output] = decode(task, [[0.5, 2.0, -1.0]], function_to_apply=function)
    assert output.labels == ("b", "a", "c")
    assert output.scores == pytest.approx(scores)
    assert output.assigned == (True, False, True)


@pytest.mark.parametrize("top_k", [1, 2, 3, 99])
def test_top_k_cuts_the_answer_and_changes_no_decision(top_k):
    task = MultiLabel(LABELS[:3], 32, calibration={"a": 0.7, "c": 0.2})
    [whole], [output] = decode(task, [[0.5, 2.0, -1.0]]), decode(task, [[0.5, 2.0, -1.0]], top_k=top_k)
    assert (output.labels, output.scores, output.assigned) == (
        whole.labels[:top_k],
        whole.scores[:top_k],
        whole.assigned[:top_k],
    )


def test_a_score_at_its_threshold_is_enough():
    [output] = decode(MultiLabel(("a", "b"), 32), [[0.0, -1e-6]])
    assert dict(zip(output.labels, output.assigned, strict=True)) == {"a": True, "b": False}


def test_a_label_without_a_threshold_of_its_own_takes_a_half():
    [output] = decode(MultiLabel(("a", "b"), 32, calibration={"a": 0.9}), [[1.0, 1.0]])
    assert dict(zip(output.labels, output.assigned, strict=True)) == {"a": False, "b": True}


def test_extreme_logits_overflow_nowhere():
    [output] = decode(MultiLabel(("a", "b"), 32), [[1e4, -1e4]])
    assert output.scores == (1, 0)
    assert output.assigned == (True, False)


@pytest.mark.parametrize("parameters", [{}, {"function_to_apply": None}, {"top_k": None}])
def test_the_sigmoid_is_the_default_function(parameters):
    assert MultiLabelOptions(**parameters) == MultiLabelOptions(top_k=None, function_to_apply="sigmoid")


@pytest.mark.parametrize("options", [{"top_k": 0}, {"function_to_apply": "relu"}, {"threshold": 0.5}])
def test_unknown_options_and_values_are_refused(options):
    with pytest.raises(ValidationError):
        MultiLabelOptions(**options)


def test_the_difference_of_two_answers_is_that_of_their_scores():
    task = MultiLabel(LABELS[:2], 32)
    [first], [second], [cut] = decode(task, [[0.1, 0.0]]), decode(task, [[-0.1, 0.2]]), decode(task, [[0.1, 0.0]], top_k=1)
    assert task.difference(first, second) == pytest.approx(max(expit(0.1) - expit(-0.1), expit(0.2) - expit(0)))
    assert task.difference(first, first) == 0
    assert task.difference(first, cut) == float("inf")


# --- wire ----------------------------------------------------------------------------------------------------------------


def test_the_answer_on_the_wire_says_of_each_label_whether_it_applies():
    output = MultiLabelScores(labels=("b", "a"), scores=(0.75, 0.25), assigned=(True, False))
    assert MultiLabel.to_wire(output) == [
        {"label": "b", "score": 0.75, "assigned": True},
        {"label": "a", "score": 0.25, "assigned": False},
    ]


def test_the_hubs_client_reads_the_answer():
    [output] = decode(MultiLabel(LABELS[:2], 32), [[0.5, -2.0]])
    found = TextClassificationOutputElement.parse_obj_as_list(json.dumps(MultiLabel.to_wire(output)).encode())
    assert [(element.label, element.score) for element in found] == list(zip(output.labels, output.scores, strict=True))
    assert [element["assigned"] for element in found] == [True, False]


def test_an_answer_survives_json_as_a_probe_keeps_it():
    [output] = decode(MultiLabel(LABELS, 32), [[0.5, -2.0, 3.0, 0.0]])
    assert MultiLabelScores(**json.loads(output.model_dump_json())) == output


# --- data ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_label", "expected"),
    [
        (["b", "a"], ("a", "b")),
        ([], ()),
        ('["b", "a"]', ("a", "b")),
        (' ["a"] ', ("a",)),
        ("[]", ()),
        ("a", ("a",)),
        ("a, b", ("a, b",)),
        ('["[x]"]', ("[x]",)),
        (["日本語", "émile"], ("émile", "日本語")),
    ],
)
def test_labels_are_a_list_a_json_list_or_one_label(given_label, expected):
    assert MultiLabelExample(text="x", label=given_label).label == expected


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (["a", "b", "a"], "the label 'a' is listed more than once"),
        ('["a", "a"]', "the label 'a' is listed more than once"),
        (["a", ""], r"a label is blank; give at least one"),
        (["a", " \t"], "a label is blank"),
        ("", "a label is blank"),
        ("['a', 'b']", r"it starts like a JSON list or object, but is not valid JSON"),
        ('["a"', "it starts like a JSON list or object, but is not valid JSON"),
        ("[" * 5000, "it starts like a JSON list or object, but is not valid JSON"),
        (None, r'expected a list of labels, like \["a", "b"\] or \[\], or one label'),
        (7, "expected a list of labels"),
        ({"a": True}, "expected a list of labels"),
        (["a", 7], "valid string"),
        ("[1, 2]", "valid string"),
        ([["a"]], "valid string"),
    ],
)
def test_what_is_no_set_of_labels_is_refused_with_what_is(broken, message):
    with pytest.raises(ValidationError, match=message):
        MultiLabelExample(text="x", label=broken)


def test_labels_are_sorted_and_distinct():
    assert MultiLabel.labels_of(examples(np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0]]))) == ("a", "b", "c")


def test_one_label_is_enough_to_train():
    assert MultiLabel.labels_of(examples(np.array([[0], [1]]))) == ("a",)


@pytest.mark.parametrize("rows", [[[0, 0], [0, 0]], []])
def test_training_data_without_any_label_is_refused(rows):
    with pytest.raises(DataError, match="multi_label needs at least one row with a label in the training data; it has none"):
        MultiLabel.labels_of(examples(np.array(rows)))


def test_a_holdout_label_that_training_lacks_is_named_with_the_known_ones():
    with pytest.raises(DataError, match=r"the holdout has 1 label that the training data lacks: 'c'; training has 'a', 'b'"):
        MultiLabel(("a", "b"), 32).check(examples(np.array([[1, 0, 1], [0, 0, 0]])))


def test_a_holdout_without_any_label_is_refused():
    with pytest.raises(DataError, match=r"none of the 2 holdout rows has a label"):
        MultiLabel(("a", "b"), 32).check(examples(np.array([[0, 0], [0, 0]])))


def test_a_holdout_may_lack_a_label_of_training_and_hold_rows_without_labels():
    MultiLabel(LABELS, 32).check(examples(np.array([[1, 0], [0, 0]])))


def test_the_stratum_of_a_row_is_its_rarest_label():
    rows = examples(np.array([[1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1]]))
    assert MultiLabel.strata(rows) == ["b", "c", "b", "", "a", "c"]


def test_a_label_of_one_row_stays_in_train_even_beside_a_common_one():
    for seed in range(20):
        rows = [MultiLabelExample(text=f"text {seed} {row}", label=["common"]) for row in range(40)]
        rows += [MultiLabelExample(text=f"rare {seed} {row}", label=["common", f"rare {row}"]) for row in range(10)]
        train, held = split_rows(MultiLabel, rows, 0.2)
        assert held
        assert len(MultiLabel.labels_of(train)) == 11


def test_targets_are_a_float_for_each_label_of_each_window():
    rows = examples(np.array([[1, 0, 1], [0, 0, 0]]))
    windows = Windows(inputs=[TextInput(text="x")] * 2, ids=[[1]] * 3, type_ids=[[0]] * 3, owner=[0, 0, 1])
    targets = MultiLabel(("a", "b", "c"), 32).targets(rows, windows)
    assert targets == [[1, 0, 1], [1, 0, 1], [0, 0, 0]]
    assert {type(value) for row in targets for value in row} == {float}


def test_the_question_of_an_example_does_not_hold_its_answer():
    example = MultiLabelExample(text="x", text_pair="y", label=["a"])
    assert MultiLabel(LABELS, 32).input_of(example) == TextInput(text="x", text_pair="y")


# --- frozen data sets ----------------------------------------------------------------------------------------------------

ROWS = [
    {"text": "the invoice is wrong and the app crashes", "label": ["bug", "billing"]},
    {"text": "THE INVOICE is wrong and the app crashes", "label": ["billing", "bug"]},  # the same, in another order
    {"text": "hello", "label": []},
    {"text": "charged twice", "label": ["billing"]},
    {"text": "it froze", "label": ["bug"]},
]
HOLDOUT = [{"text": "a refund", "label": ["billing"]}, {"text": "thanks", "label": []}]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows({**row, "label": json.dumps(row["label"])} for row in rows)
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_rows_of_a_file_are_frozen_with_their_labels_sorted_and_read_back(tmp_path, suffix):
    data = DataSettings(
        train=str(write(tmp_path / f"train.{suffix}", ROWS)), holdout=str(write(tmp_path / f"holdout.{suffix}", HOLDOUT))
    )
    storage = Storage(str(tmp_path / "storage"))
    frozen = datasets.freeze("m", MultiLabel, data, storage)
    assert frozen.version.labels == ("billing", "bug")
    assert frozen.version.removed_duplicates == 1
    assert [row.label for row in frozen.train] == [("billing", "bug"), (), ("billing",), ("bug",)]
    assert datasets.load_split(MultiLabel, storage, frozen.version.uri, "train") == frozen.train
    assert datasets.load_split(MultiLabel, storage, frozen.version.uri, "holdout") == frozen.holdout


def test_a_broken_row_is_told_with_its_line_and_value(tmp_path):
    path = write(tmp_path / "train.jsonl", [*ROWS[:1], {"text": "x", "label": ["bug", "bug"]}])
    with pytest.raises(DataError) as caught:
        sources.parse(MultiLabel, {}, sources.read(str(path), "train"), str(path))
    assert f"{path} line 2, field 'label': ['bug', 'bug']: the label 'bug' is listed more than once" in str(caught.value)


def test_a_fraction_holds_out_rows_of_every_label_that_has_two_texts(tmp_path):
    sets = list(itertools.product((0, 1), repeat=3))
    rows = [{"text": f"text {copy} {mine}", "label": named(mine)} for mine in sets for copy in range(6)]
    data = DataSettings(train=str(write(tmp_path / "train.jsonl", rows)), holdout=0.25)
    frozen = datasets.freeze("m", MultiLabel, data, Storage(str(tmp_path / "storage")))
    held = Counter(label for row in frozen.holdout for label in row.label)
    assert set(held) == {"a", "b", "c"}
    assert len(frozen.train) + len(frozen.holdout) == len(rows)
