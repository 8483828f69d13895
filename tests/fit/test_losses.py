"""The losses: torch's own and the papers' formulas, however a batch is spread over workers and steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from baton.config.training_settings import TrainingSettings
from baton.tasks.base import IGNORED
from training.fit.losses import balanced_weights, label_loss, loss_function, multi_label_loss, span_loss

SIZE = 5
WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5, 2.0])

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def indices(*shape: int, below: int = SIZE, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(seed))


def classes(rows: int = 8) -> Batch:
    return {"logits": random(rows, SIZE)}, indices(rows)


def tokens(rows: int = 8, width: int = 7) -> Batch:
    """Labels of tokens; every third is ignored, and so are all of the last row."""
    labels = indices(rows, width)
    labels.view(-1)[::3] = IGNORED
    labels[-1] = IGNORED
    return {"logits": random(rows, width, SIZE)}, labels


def many(rows: int = 8) -> Batch:
    return {"logits": random(rows, SIZE)}, (random(rows, SIZE, seed=2) > 1).float()


def spans(rows: int = 8, width: int = 7) -> Batch:
    heads = {"start_logits": random(rows, width), "end_logits": random(rows, width, seed=3)}
    return heads, indices(rows, 2, below=width)


LOSSES: list[tuple[Callable[..., torch.Tensor], Callable[[], Batch], dict[str, Any]]] = [
    (label_loss, classes, {}),
    (label_loss, tokens, {}),
    (label_loss, classes, {"smoothing": 0.1, "weights": WEIGHTS}),
    (label_loss, tokens, {"smoothing": 0.1, "weights": WEIGHTS, "gamma": 2.0}),
    (multi_label_loss, many, {}),
    (multi_label_loss, many, {"smoothing": 0.1, "weights": WEIGHTS, "gamma": 2.0}),
    (span_loss, spans, {}),
    (span_loss, spans, {"smoothing": 0.1}),
]
every_loss = pytest.mark.parametrize(
    ("loss", "batch", "options"),
    LOSSES,
    ids=[f"{loss.__name__}-{batch.__name__}-{'-'.join(options) or 'plain'}" for loss, batch, options in LOSSES],
)


def part_of(outputs: dict[str, torch.Tensor], labels: torch.Tensor, part: slice) -> Batch:
    return {name: logits[part] for name, logits in outputs.items()}, labels[part]


def focal(probabilities: torch.Tensor, target: torch.Tensor, gamma: float) -> torch.Tensor:
    """The terms [n] of soft targets [n, labels] as the paper writes them, in double precision."""
    p = probabilities.double()
    return -(target.double() * (1 - p) ** gamma * p.log()).sum(dim=-1)


def smoothed(labels: torch.Tensor, smoothing: float, size: int = SIZE) -> torch.Tensor:
    return functional.one_hot(labels, size).double() * (1 - smoothing) + smoothing / size


# --- what holds for each of them -----------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("parts", [[slice(0, 8)], [slice(0, 4), slice(4, 8)], [slice(0, 1), slice(1, 3), slice(3, 8)]])
def test_the_parts_of_a_batch_sum_up_to_its_loss(loss, batch, options, parts):
    outputs, labels = batch()
    count = labels.ne(IGNORED).sum()  # how `Trainer` counts a batch's targets
    total = sum(loss(*part_of(outputs, labels, part), count, **options) for part in parts)
    assert total.item() == pytest.approx(loss(outputs, labels, **options).item(), rel=1e-5)


@every_loss
def test_the_parts_of_a_batch_sum_up_to_its_gradient(loss, batch, options):
    outputs, labels = batch()
    for logits in outputs.values():
        logits.requires_grad_()
    loss(outputs, labels, **options).backward()
    at_once = {name: logits.grad.clone() for name, logits in outputs.items()}
    for logits in outputs.values():
        logits.grad = None
    for part in (slice(0, 3), slice(3, 8)):
        loss(*part_of(outputs, labels, part), labels.ne(IGNORED).sum(), **options).backward()
    for name, logits in outputs.items():
        assert at_once[name].abs().max() > 1e-3
        torch.testing.assert_close(logits.grad, at_once[name])


@every_loss
def test_the_count_may_be_a_number_or_a_tensor(loss, batch, options):
    outputs, labels = batch()
    assert loss(outputs, labels, 40, **options).item() == pytest.approx(
        loss(outputs, labels, torch.tensor(40), **options).item()
    )


@every_loss
def test_low_precision_is_widened(loss, batch, options):
    outputs, labels = batch()
    coarse = {name: logits.bfloat16().requires_grad_() for name, logits in outputs.items()}
    found = loss(coarse, labels, **options)
    assert found.dtype == torch.float32
    wide = {name: logits.detach().float() for name, logits in coarse.items()}
    assert found.item() == loss(wide, labels, **options).item()
    found.backward()
    for logits in coarse.values():
        assert logits.grad.dtype == torch.bfloat16
        assert logits.grad.abs().max() > 0


@every_loss
def test_certain_models_right_or_wrong_have_finite_losses_and_gradients(loss, batch, options):
    outputs, labels = batch()
    for scale in (40.0, 1e4):
        extreme = {name: (logits.sign() * scale).requires_grad_() for name, logits in outputs.items()}
        found = loss(extreme, labels, **options)
        found.backward()
        assert torch.isfinite(found)
        assert all(torch.isfinite(logits.grad).all() for logits in extreme.values())


# --- one label for each window or token ----------------------------------------------------------------------------------


def test_without_a_count_the_loss_is_the_mean():
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    assert label_loss({"logits": logits}, labels).item() == pytest.approx((np.log1p(np.exp(-2)) + np.log1p(np.exp(1))) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("batch", [classes, tokens])
def test_it_is_torchs_cross_entropy_with_its_smoothing_over_what_is_not_ignored(batch, smoothing):
    outputs, labels = batch()
    expected = functional.cross_entropy(
        outputs["logits"].view(-1, SIZE), labels.view(-1), ignore_index=IGNORED, label_smoothing=smoothing
    )
    assert label_loss(outputs, labels, smoothing=smoothing).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"gamma": 2.0}, {"gamma": 0.5, "smoothing": 0.1, "weights": WEIGHTS}])
def test_ignored_tokens_change_nothing_and_get_no_gradient(options):
    outputs, labels = tokens()
    logits = outputs["logits"].requires_grad_()
    found = label_loss(outputs, labels, **options)
    found.backward()
    ignored = labels == IGNORED
    assert logits.grad[ignored].abs().max() == 0
    assert (logits.grad[~ignored].abs().sum(dim=-1) > 0).all()
    other = logits.detach().clone()
    other[ignored] = 50 * random(int(ignored.sum()), SIZE, seed=9)
    assert label_loss({"logits": other}, labels, **options).item() == pytest.approx(found.item())


@pytest.mark.parametrize("count", [None, torch.tensor(0)])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_a_batch_of_ignored_tokens_alone_costs_nothing(count, gamma):
    logits = random(2, 3, SIZE).requires_grad_()
    found = label_loss({"logits": logits}, torch.full((2, 3), IGNORED), count, gamma=gamma)
    found.backward()
    assert found.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_the_papers(gamma):
    outputs, labels = classes(64)
    p = outputs["logits"].double().softmax(dim=-1)[torch.arange(64), labels]
    expected = (-((1 - p) ** gamma) * p.log()).mean()
    assert label_loss(outputs, labels, gamma=gamma).item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_loss_with_a_vanishing_gamma_is_cross_entropy():
    outputs, labels = tokens()
    for smoothing in (0.0, 0.2):
        plain = label_loss(outputs, labels, smoothing=smoothing)
        assert label_loss(outputs, labels, gamma=1e-9, smoothing=smoothing).item() == pytest.approx(plain.item(), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    gamma=st.floats(0.05, 5),
    smoothing=st.floats(0, 0.9),
    seed=st.integers(0, 2**31),
    weighted=st.booleans(),
    size=st.integers(2, 9),
)
def test_smoothing_weights_and_focus_combine_label_by_label(gamma, smoothing, seed, weighted, size):
    logits, labels = random(6, size, seed=seed), indices(6, below=size, seed=seed)
    weights = random(size, seed=seed + 1).abs() if weighted else None
    terms = focal(logits.double().softmax(dim=-1), smoothed(labels, smoothing, size), gamma)
    if weights is not None:
        terms = terms * weights[labels]
    found = label_loss({"logits": logits}, labels, smoothing=smoothing, weights=weights, gamma=gamma)
    assert found.item() == pytest.approx(terms.mean().item(), rel=1e-4, abs=1e-6)


def test_focus_takes_weight_from_rows_that_are_right_and_leaves_it_to_those_that_are_wrong():
    logits = torch.tensor([[4.0, 0.0], [-4.0, 0.0]])
    plain, focused = (
        [label_loss({"logits": row[None]}, torch.tensor([0]), gamma=gamma).item() for row in logits] for gamma in (0.0, 2.0)
    )
    assert focused[0] < 0.001 * plain[0]
    assert focused[1] > 0.95 * plain[1]


def slope(loss: Callable[..., torch.Tensor], logit: float, labels: torch.Tensor, **options: Any) -> float:
    """How the loss of one window changes with its first logit; the others are 0."""
    logits = torch.tensor([[logit, *[0.0] * (SIZE - 1)]], requires_grad=True)
    loss({"logits": logits}, labels, **options).backward()
    return float(logits.grad[0, 0])


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize(
    ("loss", "labels"), [(label_loss, torch.tensor([0])), (multi_label_loss, torch.tensor([[1.0, *[0.0] * (SIZE - 1)]]))]
)
def test_smoothing_holds_certainty_back_with_and_without_focus(loss, labels, gamma):
    assert slope(loss, 0.0, labels, smoothing=0.1, gamma=gamma) < 0
    assert slope(loss, 15.0, labels, smoothing=0.1, gamma=gamma) > 1e-3
    assert slope(loss, 15.0, labels, gamma=gamma) <= 0


@pytest.mark.parametrize("gamma", [0.05, 0.5, 2.0])
def test_a_target_that_is_met_exactly_has_a_gradient_of_zero(gamma):
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    label_loss({"logits": logits}, torch.tensor([0]), gamma=gamma).backward()
    assert logits.grad.tolist() == [[0, 0, 0]]


def test_a_weight_counts_a_target_as_often_as_it_says():
    outputs, labels = tokens()
    repeated = label_loss(outputs, labels, smoothing=0.1, weights=torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0]), gamma=2.0)
    logits, flat = outputs["logits"].view(-1, SIZE), labels.view(-1)
    often = torch.cat([torch.arange(len(flat)), *[torch.flatten((flat == 2).nonzero())] * 2])
    by_hand = label_loss({"logits": logits[often]}, flat[often], labels.ne(IGNORED).sum(), smoothing=0.1, gamma=2.0)
    assert repeated.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_weights_are_torchs_but_for_the_divisor():
    outputs, labels = classes()
    expected = functional.cross_entropy(outputs["logits"], labels, weight=WEIGHTS)  # divided by the sum of the weights
    found = label_loss(outputs, labels, weights=WEIGHTS) * len(labels) / WEIGHTS[labels].sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_weights_do_not_tilt_what_smoothing_asks_for():
    """At the smoothed target itself there is nothing to gain, whatever the weights. torch's combination goes on, towards the
    labels that weigh more."""
    target = smoothed(torch.tensor([1]), 0.2).float()
    ours, theirs = (target.log().requires_grad_() for _ in range(2))
    label_loss({"logits": ours}, torch.tensor([1]), smoothing=0.2, weights=WEIGHTS).backward()
    functional.cross_entropy(theirs, torch.tensor([1]), label_smoothing=0.2, weight=WEIGHTS, reduction="sum").backward()
    assert ours.grad.abs().max() < 1e-6
    assert theirs.grad.abs().max() > 0.01


# --- many labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_many_labels_cost_torchs_binary_cross_entropy(smoothing):
    outputs, labels = many()
    targets = labels * (1 - smoothing) + smoothing / 2
    expected = functional.binary_cross_entropy_with_logits(outputs["logits"], targets)
    assert multi_label_loss(outputs, labels, smoothing=smoothing).item() == pytest.approx(expected.item(), rel=1e-6)


def test_weights_of_many_labels_are_torchs_positive_weights():
    outputs, labels = many()
    expected = functional.binary_cross_entropy_with_logits(outputs["logits"], labels, pos_weight=WEIGHTS)
    assert multi_label_loss(outputs, labels, weights=WEIGHTS).item() == pytest.approx(expected.item(), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(gamma=st.floats(0, 5), smoothing=st.floats(0, 0.9), seed=st.integers(0, 2**31), weighted=st.booleans())
def test_each_of_many_labels_is_a_choice_of_two_with_its_own_focus(gamma, smoothing, seed, weighted):
    logits, labels = random(6, SIZE, seed=seed), (random(6, SIZE, seed=seed + 1) > 0).float()
    p = logits.double().sigmoid()
    both = torch.stack([1 - p, p], dim=-1).view(-1, 2)
    terms = focal(both, smoothed(labels.long().view(-1), smoothing, 2), gamma).view(6, SIZE)
    if weighted:
        terms = torch.where(labels == 1, terms * WEIGHTS, terms)
    found = multi_label_loss(
        {"logits": logits}, labels, smoothing=smoothing, weights=WEIGHTS if weighted else None, gamma=gamma
    )
    assert found.item() == pytest.approx(terms.mean().item(), rel=1e-4, abs=1e-6)


def test_binary_focal_loss_is_the_papers():
    outputs, labels = many(64)
    p = outputs["logits"].double().sigmoid()
    right = torch.where(labels == 1, p, 1 - p)
    expected = (-((1 - right) ** 2) * right.log()).mean()
    assert multi_label_loss(outputs, labels, gamma=2.0).item() == pytest.approx(expected.item(), rel=1e-5)


# --- spans ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_span_costs_the_mean_of_its_two_positions_cross_entropies(smoothing):
    outputs, labels = spans()
    start, end = (
        functional.cross_entropy(outputs[head], labels[:, side], label_smoothing=smoothing)
        for side, head in enumerate(("start_logits", "end_logits"))
    )
    assert span_loss(outputs, labels, smoothing=smoothing).item() == pytest.approx(((start + end) / 2).item(), rel=1e-6)


# --- transformers' own models --------------------------------------------------------------------------------------------


def small(kind: str, **options: Any) -> Any:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **options
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, kind)(config).eval()


@pytest.mark.parametrize(
    ("kind", "loss", "labels", "options"),
    [
        ("BertForSequenceClassification", label_loss, indices(4), {"num_labels": SIZE}),
        ("BertForTokenClassification", label_loss, tokens(4, 6)[1], {"num_labels": SIZE}),
        (
            "BertForSequenceClassification",
            multi_label_loss,
            many(4)[1],
            {"num_labels": SIZE, "problem_type": "multi_label_classification"},
        ),
    ],
    ids=["class", "tokens", "classes"],
)
def test_transformers_models_compute_the_same_loss(kind, loss, labels, options):
    outputs = small(kind, **options)(input_ids=indices(4, 6, below=50), labels=labels)
    assert loss(outputs, labels).item() == pytest.approx(outputs.loss.item(), rel=1e-5)


def test_transformers_question_answering_computes_the_same_loss():
    labels = indices(4, 2, below=6)
    outputs = small("BertForQuestionAnswering")(
        input_ids=indices(4, 6, below=50), start_positions=labels[:, 0], end_positions=labels[:, 1]
    )
    assert span_loss(outputs, labels).item() == pytest.approx(outputs.loss.item(), rel=1e-5)


# --- balanced weights ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_balanced_weights_are_scikit_learns_and_1_for_labels_that_never_occur(targets):
    found = balanced_weights("class", targets, SIZE)
    occurring = np.unique(targets)
    assert found[occurring] == pytest.approx(compute_class_weight("balanced", classes=occurring, y=targets))
    assert set(np.delete(found, occurring).tolist()) <= {1.0}
    assert len(found) == SIZE
    assert found[targets].mean() == pytest.approx(1)


def test_balanced_weights_of_tokens_pass_over_the_ignored():
    rows = [[IGNORED, 0, 0, 1, IGNORED], [IGNORED, 0, IGNORED], [IGNORED, 3, IGNORED]]
    flat = [label for row in rows for label in row if label != IGNORED]
    found = balanced_weights("tokens", rows, 4)
    assert found[[0, 1, 3]] == pytest.approx(compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=flat))
    assert found[2] == 1


def test_balanced_weights_of_ignored_tokens_alone_are_1():
    assert balanced_weights("tokens", [[IGNORED, IGNORED]], 3).tolist() == [1, 1, 1]


def test_balanced_weights_of_many_labels_give_both_sides_of_each_the_same_weight():
    matrix = (np.random.default_rng(0).random((200, 4)) < [0.02, 0.2, 0.5, 0.9]).astype(float)
    found = balanced_weights("classes", matrix.tolist(), 4)
    assert (found * matrix.sum(axis=0)).tolist() == pytest.approx((1 - matrix).sum(axis=0).tolist())


def test_a_label_that_never_or_always_applies_weighs_1():
    assert balanced_weights("classes", [[0.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]], 3).tolist() == [1, 1, 2]


# --- from the settings ---------------------------------------------------------------------------------------------------


def training(**options: Any) -> TrainingSettings:
    return TrainingSettings(**options)


@pytest.mark.parametrize(
    ("target", "loss", "batch"),
    [("class", label_loss, classes), ("tokens", label_loss, tokens), ("classes", multi_label_loss, many)],
)
def test_the_settings_choose_smoothing_weights_and_focus(target, loss, batch):
    outputs, labels = batch()
    rows = labels.tolist()
    weights = torch.tensor(balanced_weights(target, rows, SIZE), dtype=torch.float32)
    plain = loss_function(target, training(), rows, SIZE)
    assert plain(outputs, labels) == loss(outputs, labels)
    chosen = training(loss="focal", focal_gamma=3, class_weights="balanced", label_smoothing=0.1)
    found = loss_function(target, chosen, rows, SIZE)(outputs, labels, num_items_in_batch=torch.tensor(7))
    assert found == loss(outputs, labels, 7, smoothing=0.1, weights=weights, gamma=3)
    assert found != plain(outputs, labels, 7)


def test_focus_needs_to_be_asked_for():
    outputs, labels = classes()
    assert loss_function("class", training(focal_gamma=5), [0, 1], SIZE)(outputs, labels) == label_loss(outputs, labels)


def test_spans_take_smoothing_alone():
    outputs, labels = spans()
    found = loss_function("span", training(label_smoothing=0.1), labels.tolist(), 0)(outputs, labels)
    assert found == span_loss(outputs, labels, smoothing=0.1)
    assert found != span_loss(outputs, labels)
