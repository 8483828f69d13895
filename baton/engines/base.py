"""The engine protocol: numpy arrays in, numpy arrays out. Knows neither tasks nor a library that runs models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Batch = Mapping[str, NDArray[np.int64]]
"""``input_ids``, ``attention_mask`` and ``token_type_ids``, each [windows, tokens], padded on the right."""

Logits = Mapping[str, NDArray[np.float32]]
"""The model's outputs by name; the first axis is windows."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How to run a forward pass. A version is evaluated and served with the same settings."""

    engine: Literal["auto", "torch"] = "auto"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = None
    """CPU threads of one forward pass; None: the library's default."""


class Engine(Protocol):
    """A loaded model. Only one thread at a time may call `forward`."""

    description: str
    """Engine, device and precision as people read them: ``torch cpu bf16``."""
    overhead_tokens: int
    """An estimate of the cost of starting one forward pass: how many tokens take the same time."""

    def forward(self, batch: Batch) -> Logits:
        """Run one forward pass."""
        ...

    def limit_threads(self, threads: int) -> None:
        """Let each forward pass from now on use at most so many CPU threads."""
        ...
