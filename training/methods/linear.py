"""A regularised linear classifier, fitted to its optimum: multinomial or, for many labels, independent logistic regressions.

Knows features and targets as tensors, and nothing of texts or models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.fit.losses import Loss

STEPS = 300
"""Most steps of L-BFGS. Some hundred rows take fewer than a hundred."""

LEAST_SPREAD = 1e-6


@dataclass(frozen=True, kw_only=True)
class Linear:
    """``features`` [n, d] → features · ``weight`` [labels, d] transposed + ``bias`` [labels]."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [n, labels]."""
        return torch.nn.functional.linear(features, self.weight, self.bias)


def fit(features: torch.Tensor, targets: torch.Tensor, labels: int, loss: Loss, strength: float) -> Linear:
    """The `Linear` with the least ``loss`` summed over targets + squared weights / (2 · strength).

    Weights count as for features around 0 with a mean variance of 1, so that ``strength`` (scikit-learn's C) means the same
    for each encoder. The bias is among them: a label without rows would otherwise have no optimum.

    Args:
        features: fp32 [n, d].
        targets: [n] indices, or [n, labels] of 0 and 1, as ``loss`` takes them.
    """
    centre = features.mean(dim=0)
    spread = (features - centre).std(dim=0).square().mean().sqrt().clamp_min(LEAST_SPREAD)
    inputs = torch.nn.functional.pad((features - centre) / spread, (0, 1), value=1.0)
    weight = torch.zeros(labels, inputs.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=STEPS, tolerance_grad=1e-5, history_size=20, line_search_fn="strong_wolfe")

    def objective() -> torch.Tensor:
        optimiser.zero_grad()
        # losses are means; over the sum of squares the optimum is the same
        total = loss({"logits": inputs @ weight.T}, targets) + weight.square().sum() / (2 * strength * targets.numel())
        total.backward()
        return total

    optimiser.step(objective)
    scaled = weight.detach()[:, :-1] / spread
    return Linear(weight=scaled, bias=weight.detach()[:, -1] - scaled @ centre)
