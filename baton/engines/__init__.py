"""How a forward pass runs. `load_engine` is the only way in, so that a new engine is a new module and one line here."""

from __future__ import annotations

from pathlib import Path

from baton.engines.base import Batch, Engine, EngineSettings, Logits


def load_engine(directory: Path, auto_model: str, settings: EngineSettings) -> Engine:
    """The model in ``directory``, ready to run. Raises ``CorruptVersion`` when it does not load."""
    from baton.engines.torch_engine import TorchEngine

    return TorchEngine(directory, auto_model, settings)


__all__ = ["Batch", "Engine", "EngineSettings", "Logits", "load_engine"]
