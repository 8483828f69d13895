"""Dropout alone: `nn.Dropout` against `FastDropout`, alternating, on the activations of a batch of short texts.

``python -m benchmarks.dropout`` prints one line.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from training.fit.dropout import FastDropout

SHAPE = (32, 16, 384)
"""Rows, tokens, hidden size of all-MiniLM-L6-v2; banking77 has about 14 tokens a text."""

LAYERS = 14
"""Dropout modules that a step of that model passes through."""

ROUNDS = 50


def main() -> None:
    """Median milliseconds that dropout takes of one training step, forward only."""
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    values = torch.randn(SHAPE, dtype=torch.bfloat16)
    both: dict[str, list[float]] = {"torch": [], "ours": []}
    for _ in range(ROUNDS):
        for name, layer in (("torch", nn.Dropout(0.1)), ("ours", FastDropout(0.1))):
            began = time.perf_counter()
            for _ in range(LAYERS):
                layer(values)
            both[name].append((time.perf_counter() - began) * 1000)
    theirs, ours = np.median(both["torch"]), np.median(both["ours"])
    print(f"{LAYERS} layers of {SHAPE}: torch {theirs:.1f} ms, ours {ours:.1f} ms, ratio {theirs / ours:.1f}")


if __name__ == "__main__":
    main()
