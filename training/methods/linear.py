"""A regularised linear classifier, fitted to its optimum: multinomial or, for many labels, independent logistic regressions.

Takes features and targets as tensors. Knows nothing of texts or models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.fit.losses import Loss

MAX_STEPS = 300
"""Maximum steps of L-BFGS. A few hundred rows take fewer than a hundred."""

MIN_SPREAD = 1e-6
"""Minimum of the spread that features are divided by: avoids a division by zero where all rows have the same features."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear layer: ``features`` [n, d] → ``features`` · transposed ``weight`` [labels, d] + ``bias`` [labels]."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, labels] of ``features`` [n, d]."""
        return torch.nn.functional.linear(features, self.weight, self.bias)


def fit(features: torch.Tensor, targets: torch.Tensor, labels: int, loss: Loss, strength: float) -> Linear:
    """Return the `Linear` that minimises ``loss`` summed over targets + squared weights / (2 · strength).

    The features are first shifted to a mean of 0 and scaled to a mean variance of 1, so that ``strength`` (scikit-learn's C)
    means the same for each encoder. The bias is regularised as well: otherwise a label without rows would have no optimum.

    Args:
        features: fp32 [n, d].
        targets: [n] indices, or [n, labels] of 0 and 1, as ``loss`` takes them.
        labels: number of labels.
        loss: a mean over targets.
        strength: the larger, the weaker the regularisation.
    """
    centre = features.mean(dim=0)
    spread = (features - centre).std(dim=0).square().mean().sqrt().clamp_min(MIN_SPREAD)
    inputs = torch.nn.functional.pad((features - centre) / spread, (0, 1), value=1.0)  # the last column is for the bias
    weight = torch.zeros(labels, inputs.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight], max_iter=MAX_STEPS, tolerance_grad=1e-5, history_size=20, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        optimiser.zero_grad()
        # ``loss`` is a mean, so the penalty is divided by the number of targets as well: the optimum is the same
        total = loss({"logits": inputs @ weight.T}, targets) + weight.square().sum() / (2 * strength * targets.numel())
        total.backward()
        return total

    optimiser.step(objective)
    scaled = weight.detach()[:, :-1] / spread
    return Linear(weight=scaled, bias=weight.detach()[:, -1] - scaled @ centre)
