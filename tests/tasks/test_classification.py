"""The classification task: what it accepts, how it decodes, and that its scores are scikit-learn's."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import expit, softmax
from sklearn import metrics as reference

from baton.errors import DataError, InvalidInput, NotFound
from baton.tasks import task_type
from baton.tasks.classification import Classification, TextExample
from baton.tasks.text_classifier import ClassificationOptions, LabelScores, TextInput
from baton.tasks.windows import Windows

LABELS = ("a", "b", "c", "d")


def examples(truth: list[int], labels: tuple[str, ...] = LABELS) -> list[TextExample]:
    return [TextExample(text=f"text {row}", label=labels[index]) for row, index in enumerate(truth)]


def outputs(probabilities: np.ndarray, labels: tuple[str, ...] = LABELS) -> list[LabelScores]:
    orders = np.argsort(-probabilities, axis=1)
    return [
        LabelScores(labels=tuple(labels[index] for index in order), scores=tuple(row[order].tolist()))
        for row, order in zip(probabilities, orders, strict=True)
    ]


def certain(predicted: list[int], size: int = len(LABELS)) -> np.ndarray:
    return np.eye(size)[predicted]


def decode(logits: list[float], **options: object) -> LabelScores:
    task = Classification(LABELS[: len(logits)], 32)
    windows = Windows(inputs=[TextInput(text="x")], ids=[[1]], type_ids=[[0]], owner=range(1))
    [output] = task.decode(windows, {"logits": [np.array(logits, dtype=np.float32)]}, [ClassificationOptions(**options)])
    return output


def macro_f1(truth: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray) -> float:
    """scikit-learn's macro-F1 over the labels that are the truth of a row."""
    return float(reference.f1_score(truth, predicted, labels=sorted(set(truth)), average="macro", zero_division=0))


@st.composite
def answered(draw: st.DrawFn) -> tuple[list[int], np.ndarray]:
    """Truths (not every label needs to occur) and random probabilities of up to 4 labels."""
    size = draw(st.integers(2, 4))
    rows = draw(st.integers(1, 40))
    truth = draw(st.lists(st.integers(0, size - 1), min_size=rows, max_size=rows))
    source = np.random.default_rng(draw(st.integers(0, 2**32)))
    return truth, source.dirichlet(np.full(size, 0.5), rows)


# --- scores --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", [[0, 1, 2, 3], [0, 0, 1], [2]])
def test_perfect_outputs_score_one(truth):
    score = Classification(LABELS, 32).score(outputs(certain(truth)), examples(truth))
    assert score.metrics["f1"] == 1
    assert score.metrics["accuracy"] == 1


def test_outputs_that_are_always_wrong_score_zero():
    score = Classification(LABELS, 32).score(outputs(certain([1, 2, 3, 0])), examples([0, 1, 2, 3]))
    assert (score.metrics["f1"], score.metrics["accuracy"]) == (0, 0)


def test_a_label_that_the_version_does_not_know_counts_as_wrong():
    truth, predicted = [0, 1, 2, 2], [0, 1, 0, 1]
    task = Classification(("a", "b"), 32)
    score = task.score(outputs(certain(predicted, 2), ("a", "b")), examples(truth))
    assert score.metrics["f1"] == pytest.approx(macro_f1(truth, predicted))
    assert score.metrics["f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert score.metrics["accuracy"] == 0.5
    assert score.metrics["per_class"]["c"]["support"] == 2
    assert task.measure(score.metrics, score.statistics).value() == score.metrics["f1"]


def test_macro_f1_gives_a_rare_label_the_weight_of_a_common_one():
    truth, predicted = [0] * 9 + [1], [0] * 10
    score = Classification(("a", "b"), 32).score(outputs(certain(predicted, 2), LABELS[:2]), examples(truth))
    assert score.metrics["accuracy"] == 0.9
    assert score.metrics["f1"] == pytest.approx((18 / 19 + 0) / 2)


def test_a_label_that_is_only_answered_is_a_miss_but_does_not_join_the_mean():
    truth, predicted = [0, 0, 1, 1], [0, 2, 1, 1]
    score = Classification(LABELS, 32).score(outputs(certain(predicted)), examples(truth))
    assert score.metrics["f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert score.metrics["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


@settings(max_examples=80, deadline=None)
@given(answered())
def test_scores_are_those_of_scikit_learn(answers):
    truth, probabilities = answers
    labels = LABELS[: probabilities.shape[1]]
    predicted = probabilities.argmax(axis=1)
    found = Classification(labels, 32).score(outputs(probabilities, labels), examples(truth)).metrics
    assert found["f1"] == pytest.approx(macro_f1(truth, predicted))
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted))
    positions = range(len(labels))
    assert found["confusion"] == reference.confusion_matrix(truth, predicted, labels=positions).tolist()
    expected = reference.precision_recall_fscore_support(truth, predicted, labels=positions, zero_division=0)
    for position, label in enumerate(labels):
        keys = ("precision", "recall", "f1", "support")
        assert [found["per_class"][label][key] for key in keys] == pytest.approx([column[position] for column in expected])


@settings(max_examples=40, deadline=None)
@given(answered())
def test_roc_auc_is_scikit_learns_where_every_label_occurs_and_none_elsewhere(answers):
    truth, probabilities = answers
    size = probabilities.shape[1]
    found = Classification(LABELS[:size], 32).score(outputs(probabilities, LABELS[:size]), examples(truth)).metrics["roc_auc"]
    if len(set(truth)) < size:
        assert found is None
    elif size == 2:
        assert found == pytest.approx(reference.roc_auc_score(truth, probabilities[:, 1]))
    else:
        assert found == pytest.approx(reference.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro"))


def test_metrics_are_plain_values_that_json_takes():
    truth = [0, 1, 2, 3, 0]
    found = Classification(LABELS, 32).score(outputs(certain([0, 1, 2, 3, 1])), examples(truth)).metrics
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_statistics_are_one_small_row_an_example():
    score = Classification(LABELS, 32).score(outputs(certain([0, 3])), examples([1, 3]))
    assert score.statistics.dtype == np.int32
    assert score.statistics.tolist() == [[1, 0], [3, 3]]


# --- the measured metric -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(answered(), st.integers(0, 2**32))
def test_the_measured_metric_of_repeated_rows_is_scikit_learns_over_the_labels_that_are_true_among_them(answers, seed):
    truth, probabilities = np.array(answers[0]), answers[1]
    predicted = probabilities.argmax(axis=1)
    rows, labels = len(truth), LABELS[: probabilities.shape[1]]
    task = Classification(labels, 32)
    score = task.score(outputs(probabilities, labels), examples(answers[0]))
    metric = task.measure(score.metrics, score.statistics)
    assert metric.value() == score.metrics["f1"] == pytest.approx(macro_f1(truth, predicted))
    for times in np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=5):
        repeated = np.repeat(np.arange(rows), times)
        assert metric.part(repeated).value() == pytest.approx(macro_f1(truth[repeated], predicted[repeated]))


@settings(max_examples=60, deadline=None)
@given(answered(), st.data())
def test_a_version_with_other_labels_measures_what_the_scored_version_did(answers, data):
    truth, probabilities = answers
    labels = LABELS[: probabilities.shape[1]]
    score = Classification(labels, 32).score(outputs(probabilities, labels), examples(truth))
    other = Classification(data.draw(st.permutations(LABELS)), 32)
    assert other.measure(score.metrics, score.statistics).value() == score.metrics["f1"]


def test_the_measured_metric_counts_a_large_holdout_exactly():
    source = np.random.default_rng(0)
    truth, predicted = source.integers(0, 75, 20_000), source.integers(0, 77, 20_000)
    labels = [str(label) for label in range(77)]
    statistics = np.stack([truth, predicted], axis=1).astype(np.int32)
    found = Classification(labels, 32).measure({"labels": labels}, statistics).value()
    assert found == pytest.approx(macro_f1(truth, predicted), abs=1e-12)


# --- decoding ------------------------------------------------------------------------------------------------------------


def test_scores_are_softmax_best_first_by_default():
    output = decode([0.5, 2.0, -1.0])
    assert output.labels == ("b", "a", "c")
    assert output.scores == pytest.approx(softmax([2.0, 0.5, -1.0]))
    assert output.label == "b"


def test_sigmoid_scores_each_label_on_its_own():
    assert decode([0.5, 2.0, -1.0], function_to_apply="sigmoid").scores == pytest.approx(expit([2.0, 0.5, -1.0]))


def test_none_gives_the_logits():
    assert decode([0.5, 2.0, -1.0], function_to_apply="none").scores == (2.0, 0.5, -1.0)


def test_a_null_function_means_softmax():
    assert decode([0.5, 2.0], function_to_apply=None) == decode([0.5, 2.0], function_to_apply="softmax")


@pytest.mark.parametrize("function", ["softmax", "sigmoid"])
def test_huge_logits_do_not_overflow(function):
    assert decode([1e30, -1e30], function_to_apply=function).scores == (1, 0)


@pytest.mark.parametrize(("top_k", "labels"), [(1, ("b",)), (2, ("b", "a")), (3, ("b", "a", "c")), (99, ("b", "a", "c"))])
def test_top_k_answers_the_best_labels(top_k, labels):
    output = decode([0.5, 2.0, -1.0], top_k=top_k)
    assert output.labels == labels
    assert output.scores == decode([0.5, 2.0, -1.0]).scores[:top_k]


def test_equal_scores_keep_the_order_of_the_labels():
    assert decode([1.0, 1.0, 1.0]).labels == ("a", "b", "c")


def test_each_input_of_a_batch_has_its_own_options():
    task = Classification(LABELS[:2], 32)
    logits = {"logits": [np.array([0.0, 1.0], dtype=np.float32)] * 2}
    windows = Windows(inputs=[TextInput(text="x")] * 2, ids=[[1], [1]], type_ids=[[0], [0]], owner=range(2))
    choices = [ClassificationOptions(top_k=1), ClassificationOptions(function_to_apply="none")]
    assert [len(output.labels) for output in task.decode(windows, logits, choices)] == [1, 2]


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": -1}, {"function_to_apply": "relu"}, {"topk": 1}])
def test_unknown_options_and_values_are_refused(options):
    with pytest.raises(ValidationError):
        ClassificationOptions(**options)


def test_the_difference_of_two_answers_is_that_of_their_scores_whatever_the_order():
    first = LabelScores(labels=("a", "b"), scores=(0.6, 0.4))
    second = LabelScores(labels=("b", "a"), scores=(0.55, 0.45))
    task = Classification(("a", "b"), 32)
    assert task.difference(first, second) == pytest.approx(0.15)
    assert task.difference(first, first) == 0


def test_answers_with_different_labels_differ_infinitely():
    first = LabelScores(labels=("a", "b"), scores=(0.6, 0.4))
    for labels in (("a", "c"), ("a",)):
        other = LabelScores(labels=labels, scores=(0.6, 0.4)[: len(labels)])
        assert Classification(("a", "b"), 32).difference(first, other) == float("inf")


# --- data ----------------------------------------------------------------------------------------------------------------


def test_labels_are_sorted_and_distinct():
    assert Classification.labels_of(examples([2, 0, 1, 0])) == ("a", "b", "c")


@pytest.mark.parametrize(("truth", "has"), [([1, 1], "only 'b'"), ([], "none")])
def test_training_data_needs_two_labels(truth, has):
    with pytest.raises(DataError, match=f"needs at least two labels in the training data; it has {has}"):
        Classification.labels_of(examples(truth))


def test_a_holdout_label_that_training_lacks_is_named_with_the_known_ones():
    with pytest.raises(
        DataError, match=r"the holdout has 2 labels that the training data lacks: 'c', 'd'; training has 'a', 'b'"
    ):
        Classification(("a", "b"), 32).check(examples([0, 3, 2, 3]))


def test_a_holdout_may_lack_a_label_of_training():
    Classification(LABELS, 32).check(examples([0, 1]))


def test_targets_are_the_positions_of_the_labels():
    windows = Windows(inputs=[TextInput(text="x")] * 3, ids=[[1]] * 3, type_ids=[[0]] * 3, owner=range(3))
    assert Classification(LABELS, 32).targets(examples([3, 0, 1]), windows) == [3, 0, 1]


def test_the_question_of_an_example_does_not_hold_its_answer():
    [example] = examples([1])
    assert Classification(LABELS, 32).input_of(example) == TextInput(text="text 0")


# --- texts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u00a0\u2003"])
def test_a_text_without_characters_is_refused(text):
    with pytest.raises(ValidationError, match="text is empty; send at least one character that is not white space"):
        TextInput(text=text)
    with pytest.raises(InvalidInput, match="text is empty"):
        Classification.from_wire(text)


def test_a_lone_surrogate_is_refused_with_its_place():
    with pytest.raises(ValidationError):
        TextInput(text="ab\ud800c")
    with pytest.raises(InvalidInput, match="lone surrogate at character 2; send valid Unicode"):
        Classification.from_wire("ab\ud800c")


@pytest.mark.parametrize("text", ["x", "ひらがな", "👩‍👩‍👧‍👦", "e\u0301", "\u202eשלום", "a\x00b"])
def test_any_other_text_is_taken_as_it_is(text):
    assert TextInput(text=text).text == text
    assert Classification.from_wire(text) == TextInput(text=text)


@pytest.mark.parametrize("value", [None, 7, ["x"], b"x"])
def test_what_is_no_text_is_refused_with_its_type(value):
    with pytest.raises(InvalidInput, match=f"a text must be a string, not {type(value).__name__}"):
        Classification.from_wire(value)


def test_an_example_needs_a_label():
    with pytest.raises(ValidationError, match="a label is blank"):
        TextExample(text="x", label="")


def test_the_answer_on_the_wire_is_a_list_of_labels_and_scores():
    output = LabelScores(labels=("b", "a"), scores=(0.75, 0.25))
    assert Classification.to_wire(output) == [{"label": "b", "score": 0.75}, {"label": "a", "score": 0.25}]


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(NotFound, match="unknown task 'poetry'; known tasks: classification"):
        task_type("poetry")
