"""Compare `nn.Dropout` with `FastDropout`, alternating, on the activations of a batch of short texts.

``python -m benchmarks.learning.dropout`` prints one line.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from training.fit.dropout import FastDropout

SHAPE = (32, 16, 384)
"""Rows, tokens and hidden size of all-MiniLM-L6-v2. A text of banking77 has about 14 tokens."""

LAYERS = 14
"""Number of dropout modules in a forward pass of that model."""

ROUNDS = 50


def main() -> None:
    """Print the median milliseconds that dropout takes in the forward pass of a training step."""
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
