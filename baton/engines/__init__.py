"""How a forward pass runs. `load_engine` is the only way in, so that a new engine is a new module and one line here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from baton.engines.base import Batch, Engine, EngineSettings, Logits


def load_engine(directory: Path, auto_model: str, heads: Sequence[str], settings: EngineSettings) -> Engine:
    """The model in ``directory``, which answers with its outputs ``heads``. Raises ``CorruptVersion`` when it does not load."""
    from baton.engines.torch_engine import TorchEngine

    return TorchEngine(directory, auto_model, heads, settings)


__all__ = ["Batch", "Engine", "EngineSettings", "Logits", "load_engine"]
