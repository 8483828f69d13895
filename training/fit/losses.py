"""The loss for each type of target (`baton.tasks.base.Target`), independent of how a batch is spread over workers and steps.

`Trainer` 5 assumes that BERT-type models divide by ``num_items_in_batch`` (the number of targets in the whole batch, over all
workers and accumulation steps) themselves, so these losses divide by it. `Trainer` then multiplies by the number of workers,
because DDP averages gradients over them.
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
"""(outputs of the model, targets [windows, …], number of targets in the whole batch or None) → the loss, a scalar."""

MIN_MISS = torch.finfo(torch.float32).eps
"""Minimum of 1 − p in focal loss: at 0, (1 − p)^γ has no finite gradient for γ below 1."""


def loss_function(target: Target, training: TrainingSettings, targets: Sequence[Any], labels: int) -> Loss:
    """Return the loss for a task's type of ``target`` with the options of ``training``.

    ``targets`` are those of the training windows, from which class weights are computed; ``labels`` is the number of labels.
    """
    if target == "span":
        return partial(span_loss, smoothing=training.label_smoothing or 0.0)
    weights = None
    if training.class_weights == "balanced":
        weights = torch.tensor(balanced_weights(target, targets, labels), dtype=torch.float32)
    gamma = training.focal_gamma if training.loss == "focal" else 0.0
    loss = multi_label_loss if target == "classes" else label_loss
    return partial(loss, smoothing=training.label_smoothing or 0.0, weights=weights, gamma=gamma)


def label_loss(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: Any = None,
    *,
    smoothing: float = 0.0,
    weights: torch.Tensor | None = None,
    gamma: float = 0.0,
) -> torch.Tensor:
    """Return the cross-entropy of targets that are one label for each window or token, or the tokens of an answer.

    ``smoothing`` spreads that share of each target over all labels (Szegedy et al. 2016, «Rethinking the Inception
    architecture»). ``gamma`` > 0 gives focal loss: the term of a label with probability p is multiplied by (1 − p)^γ (Lin et
    al. 2017, «Focal loss for dense object detection»). The factor is applied to each label separately, so that the small shares
    of a smoothed target keep their weight. One factor for the whole target would approach 0 as the model becomes certain, and
    smoothing would have no effect.

    ``weights`` [labels] multiply the whole term of each target by the weight of its label, after smoothing. `torch` would
    weight the share of each label separately, and so smooth towards rare labels. The sum is divided by the number of targets,
    which all workers know, and not by the sum of their weights; balanced weights average 1.
    """
    logits = outputs["logits"].float()
    logits, labels = logits.view(-1, logits.shape[-1]), labels.view(-1)
    counted = labels != IGNORED
    safe = labels.clamp_min(0)
    if gamma:
        size = logits.shape[-1]
        target = functional.one_hot(safe, size) * (1 - smoothing) + smoothing / size
        log_p = functional.log_softmax(logits, dim=-1)
        miss = -torch.expm1(log_p)  # 1 − p, exact where p is close to 1
        terms = -(target * miss.clamp_min(MIN_MISS) ** gamma * log_p).sum(dim=-1)
    else:
        terms = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing, ignore_index=IGNORED)
    if weights is not None:
        terms = terms * weights.to(terms.device)[safe]
    return mean_of(terms * counted, counted.sum(), num_items_in_batch)


def multi_label_loss(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: Any = None,
    *,
    smoothing: float = 0.0,
    weights: torch.Tensor | None = None,
    gamma: float = 0.0,
) -> torch.Tensor:
    """Return the binary cross-entropy of ``labels`` [windows, labels], which are 0 or 1, averaged over windows and labels.

    ``smoothing`` moves targets towards ½. ``gamma`` works as in `label_loss`, on the two answers "applies" and "does not
    apply". ``weights`` [labels] multiply the terms of labels that apply, after smoothing.
    """
    logits = outputs["logits"].float()
    yes, no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    targets = labels * (1 - smoothing) + smoothing / 2
    terms = -(targets * (gamma * no).exp() * yes + (1 - targets) * (gamma * yes).exp() * no)
    if weights is not None:
        terms = torch.where(labels > 0.5, terms * weights.to(terms.device), terms)
    return mean_of(terms, terms.numel(), num_items_in_batch)


def span_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None, *, smoothing: float = 0.0) -> torch.Tensor:
    """Return the cross-entropy of the first and the last token's position, averaged (Devlin et al. 2019, «BERT», section 4.2).

    ``labels`` [windows, 2] are positions in the padded batch, as in transformers' own models.
    """
    both = [
        functional.cross_entropy(outputs[head].float(), labels[:, column], reduction="sum", label_smoothing=smoothing)
        for column, head in enumerate(("start_logits", "end_logits"))
    ]
    return mean_of(torch.stack(both), labels.numel(), num_items_in_batch)


def mean_of(terms: torch.Tensor, own_targets: Any, batch_targets: Any) -> torch.Tensor:
    """Return the sum of ``terms`` divided by the number of targets in the whole batch, or in ``terms`` if that is None.

    The loss of a batch without targets (all tokens ignored) is 0.
    """
    return terms.sum() / torch.as_tensor(own_targets if batch_targets is None else batch_targets).clamp_min(1)


def balanced_weights(target: Target, targets: Sequence[Any], labels: int) -> NDArray[np.float64]:
    """Return weights [labels] with which each label has the same total weight.

    One label per target: n / (number of labels that occur · n_label), so that the weights of all targets average 1
    (scikit-learn's ``balanced``). Many labels per target (``classes``): negatives / positives of each label, so that both have
    the same total weight. A label that never occurs has weight 1. So has one of many labels that always applies: with a weight
    of 0 it would not be learnt.
    """
    if target == "classes":
        matrix = np.asarray(targets, dtype=np.float64)
        positive = matrix.sum(axis=0)
        negative = len(matrix) - positive
        return np.where((positive > 0) & (negative > 0), negative / np.maximum(positive, 1), 1.0)
    flat = np.concatenate([np.atleast_1d(np.asarray(one, dtype=np.int64)) for one in targets])
    counts = np.bincount(flat[flat != IGNORED], minlength=labels)
    return np.where(counts > 0, counts.sum() / np.maximum(np.count_nonzero(counts) * counts, 1), 1.0)
