"""The loss of each kind of target (`baton.tasks.base.Target`), whatever the spread of a batch over workers and steps.

`Trainer` 5 believes that BERT-type models divide by ``num_items_in_batch`` (targets of the whole batch, over all workers and
accumulation steps) themselves; these losses do divide. `Trainer` then multiplies by the number of workers, because DDP
averages gradients over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from baton.config.training_settings import TrainingSettings
from baton.tasks.base import IGNORED, Target

Loss = Callable[..., torch.Tensor]
"""(the model's outputs, targets [windows, …], number of targets in the whole batch or None) → a scalar."""

LEAST_DOUBT = torch.finfo(torch.float32).eps
"""Floor of 1 − p in focal loss: at 0 its power has no finite gradient for γ below 1."""


def loss_function(target: Target, training: TrainingSettings, targets: Sequence[Any], labels: int) -> Loss:
    """The loss for a task's kind of target, as ``training`` wants it; ``targets`` are those of the training windows."""
    if target == "span":
        return partial(span_loss, smoothing=training.label_smoothing)
    weights = None
    if training.class_weights == "balanced":
        weights = torch.tensor(balanced_weights(target, targets, labels), dtype=torch.float32)
    gamma = training.focal_gamma if training.loss == "focal" else 0.0
    loss = label_loss if target in ("class", "tokens") else multi_label_loss
    return partial(loss, smoothing=training.label_smoothing, weights=weights, gamma=gamma)


def label_loss(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: Any = None,
    *,
    smoothing: float = 0.0,
    weights: torch.Tensor | None = None,
    gamma: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy over one label for each window or token.

    ``smoothing`` spreads that share of each target over all labels (Szegedy et al. 2016, «Rethinking the Inception
    architecture»). With ``gamma``, focal loss: the term of a label with probability p shrinks by (1 − p)^γ (Lin et al. 2017,
    «Focal loss for dense object detection»). It shrinks label by label, so that a smoothed target's small shares keep their
    weight; a factor for the whole target would go to 0 with certainty and leave smoothing without effect.

    ``weights`` [labels] multiply the whole term of each target by its label's weight, after smoothing; `torch` would weigh
    each label's share by itself, and so smooth towards rare labels. The sum is divided by the number of targets, which all
    workers know, not by the sum of their weights; balanced weights average 1.
    """
    logits = outputs["logits"].float()
    logits, labels = logits.view(-1, logits.shape[-1]), labels.view(-1)
    counted = labels != IGNORED
    safe = labels.clamp_min(0)
    if gamma:
        size = logits.shape[-1]
        target = functional.one_hot(safe, size) * (1 - smoothing) + smoothing / size
        known = functional.log_softmax(logits, dim=-1)
        doubt = -torch.expm1(known)  # 1 − p, exact where p is close to 1
        terms = -(target * doubt.clamp_min(LEAST_DOUBT) ** gamma * known).sum(dim=-1)
    else:
        terms = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing, ignore_index=IGNORED)
    if weights is not None:
        terms = terms * weights.to(terms.device)[safe]
    return _mean(terms * counted, counted.sum(), num_items_in_batch)


def multi_label_loss(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: Any = None,
    *,
    smoothing: float = 0.0,
    weights: torch.Tensor | None = None,
    gamma: float = 0.0,
) -> torch.Tensor:
    """Binary cross-entropy of every label, averaged over windows and labels; ``labels`` [windows, labels] are 0 or 1.

    ``smoothing`` moves targets towards ½. ``gamma`` as in `label_loss`, for the two answers "applies" and "does not".
    ``weights`` [labels] multiply the terms of labels that apply, after smoothing.
    """
    logits = outputs["logits"].float()
    yes, no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    targets = labels * (1 - smoothing) + smoothing / 2
    terms = -(targets * (gamma * no).exp() * yes + (1 - targets) * (gamma * yes).exp() * no)
    if weights is not None:
        terms = torch.where(labels > 0.5, terms * weights.to(terms.device), terms)
    return _mean(terms, terms.numel(), num_items_in_batch)


def span_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None, *, smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of the first and of the last token's position, averaged (Devlin et al. 2019, «BERT», section 4.2).

    Positions are those of the padded batch, as in transformers' own models.
    """
    both = [
        functional.cross_entropy(outputs[head].float(), labels[:, side], reduction="sum", label_smoothing=smoothing)
        for side, head in enumerate(("start_logits", "end_logits"))
    ]
    return _mean(torch.stack(both), labels.numel(), num_items_in_batch)


def _mean(terms: torch.Tensor, own: Any, whole: Any) -> torch.Tensor:
    """The sum of ``terms`` over the number of targets: that of the ``whole`` batch if it is known, else these terms' ``own``.

    A batch may have none (tokens that are all ignored): its loss is 0.
    """
    return terms.sum() / torch.as_tensor(own if whole is None else whole).clamp_min(1)


def balanced_weights(target: Target, targets: Sequence[Any], labels: int) -> NDArray[np.float64]:
    """Weights [labels] that make each label weigh as much as any other.

    One label each: n / (labels that occur · n_label), so that the weights of all targets average 1 (scikit-learn's
    ``balanced``). Many labels: negatives / positives of each label, so that both sides weigh the same. A label that never
    occurs weighs 1, and so does one of many that always applies: a weight of 0 would leave it unlearnt.
    """
    if target == "classes":
        matrix = np.asarray(targets, dtype=np.float64)
        positive = matrix.sum(axis=0)
        negative = len(matrix) - positive
        return np.where((positive > 0) & (negative > 0), negative / np.maximum(positive, 1), 1.0)
    flat = np.concatenate([np.atleast_1d(np.asarray(one, dtype=np.int64)) for one in targets])
    counts = np.bincount(flat[flat != IGNORED], minlength=labels)
    return np.where(counts > 0, counts.sum() / np.maximum(np.count_nonzero(counts) * counts, 1), 1.0)
