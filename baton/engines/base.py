"""What an engine is: numpy arrays in, numpy arrays out. Knows no task and no library that runs models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Batch = Mapping[str, NDArray[np.int64]]
"""``input_ids``, ``attention_mask`` and ``token_type_ids``, each [windows, tokens], padded on the right."""

Logits = Mapping[str, NDArray[np.float32]]
"""The model's output heads by name, first axis windows."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How to run a forward pass; the same settings judge a version and serve it."""

    kind: Literal["auto", "torch"] = "auto"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = None
    """CPU threads of one forward pass; None leaves the library's own choice."""


class Engine(Protocol):
    """A loaded model. `forward` is called from one thread at a time."""

    description: str
    """Engine, device and precision, for people: ``torch cpu bf16``."""
    overhead_tokens: int
    """What starting one forward pass costs, in tokens that could have been computed instead; an estimate."""

    def forward(self, batch: Batch) -> Logits:
        """Run the model once."""
        ...
