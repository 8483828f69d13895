"""Dropout for CPUs that draws its mask from 16-bit random numbers, four of them in each 64-bit draw.

On CPUs `torch`'s own dropout draws one Bernoulli number per element, and takes more than twice as long (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import torch
from torch import nn

BITS = 16
"""Random bits for each element of a mask."""


class FastDropout(nn.Dropout):  # type: ignore[misc]
    """`nn.Dropout` with the same distribution (the rate rounded to 1/65536), but other random masks for the same seed.

    It behaves exactly like `nn.Dropout` on other devices than the CPU, in evaluation, and when the rate is 0 or 1.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return ``values`` with elements zeroed at rate ``p`` and the rest scaled by 1 / (1 − p), as in training mode."""
        if not self.training or values.device.type != "cpu" or not 0 < self.p < 1:
            return super().forward(values)
        count = values.numel()
        words = torch.empty(-(-count * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
        # 16-bit numbers are uniform over −32768 … 32767: p = 0.1 drops those below 6554 − 32768 = −26214
        threshold = round(self.p * 2**BITS) - 2 ** (BITS - 1)
        kept = words.view(torch.int16)[:count].view(values.shape) >= threshold
        return values * kept.to(values.dtype).mul_(1 / (1 - self.p))


def use_fast_dropout(model: nn.Module) -> None:
    """Replace every `nn.Dropout` of ``model`` by a `FastDropout`. Dropout has no weights, so saved models stay the same."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p, child.inplace))
