"""Dropout that draws its mask sixteen bits at a time.

On CPUs `torch`'s own draws one Bernoulli number after the other, and takes more than twice as long (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import torch
from torch import nn

BITS = 16


class FastDropout(nn.Dropout):  # type: ignore[misc]
    """`nn.Dropout` with the same distribution (the rate rounded to 1/65536) and other draws.

    Off the CPU, and when it drops nothing, it is its parent.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` with elements zeroed at rate ``p`` and the rest scaled by 1 / (1 − p), as in training mode."""
        if not self.training or values.device.type != "cpu" or not 0 < self.p < 1:
            return super().forward(values)
        count = values.numel()
        words = torch.empty(-(-count * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
        threshold = round(self.p * 2**BITS) - 2 ** (BITS - 1)
        kept = words.view(torch.int16)[:count].view(values.shape) >= threshold
        return values * kept.to(values.dtype).mul_(1 / (1 - self.p))


def quicken(model: nn.Module) -> None:
    """Put `FastDropout` in the place of every `nn.Dropout` of ``model``; nothing that is saved changes."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p, child.inplace))
