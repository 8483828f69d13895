"""The engine protocol: numpy arrays in, numpy arrays out. Knows neither tasks nor a library that runs models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from baton.generation import Generation

Batch = Mapping[str, NDArray[np.int64]]
"""``input_ids``, ``attention_mask`` and ``token_type_ids``, each [windows, tokens], padded on the right."""

Logits = Mapping[str, NDArray[np.float32]]
"""The model's outputs by name; the first axis is windows."""

Library = Literal["onnx", "torch"]
"""What runs the forward pass: ONNX Runtime or PyTorch."""

Precision = Literal["auto", "fp32", "bf16", "int8"]
"""Number format of the forward pass. ``auto``: bf16 with torch if the hardware has it, else fp32."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How to run a forward pass. A version is evaluated and served with the same settings."""

    library: Library = "torch"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Precision = "auto"
    threads: int | None = None
    """CPU threads of one forward pass; None: the library's default."""


class Engine(Protocol):
    """A loaded model. Only one thread at a time may call `forward`."""

    description: str
    """Engine, device and precision as people read them: ``onnx cpu int8``."""
    overhead_tokens: int
    """An estimate of the cost of starting one forward pass: how many tokens take the same time. Used until it is measured."""
    max_rows: int | None
    """Windows in one forward pass at most; None: any number."""
    length_step: int
    """Batches are padded to a multiple of so many tokens, because the engine is faster on such shapes."""

    def forward(self, batch: Batch) -> Logits:
        """Run one forward pass."""
        ...

    def limit_threads(self, threads: int) -> None:
        """Let each forward pass from now on use at most so many CPU threads."""
        ...


@runtime_checkable
class WritingEngine(Engine, Protocol):
    """A loaded model that can write texts."""

    def write(self, batch: Batch, generation: Generation, abandoned: Callable[[], bool]) -> Logits:
        """Return ``tokens`` [windows, tokens]: the ids that the model wrote for each window, with -1 from its end on.

        It stops early once ``abandoned()`` is true. float32 holds ids exactly up to 16 million. Raises ``NotFinite``.
        """
        ...
