"""Engines: how a forward pass runs.

`load_engine` is the only function that chooses an engine, so a new one is a new module and one line here. `base` has the
protocol: numpy arrays in, numpy arrays out. An engine must not know tasks, tokenizers or the registry.

`onnx_export` makes the files that `onnx_engine` runs; only training calls it.

Start with `base`, then `onnx_engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from baton.engines.base import Batch, Engine, EngineSettings, Library, Logits, Precision, WritingEngine


def load_engine(directory: Path, auto_model: str, heads: Sequence[str], settings: EngineSettings) -> Engine:
    """Load the model in ``directory`` into an engine that returns the model's outputs ``heads``.

    Raises ``CorruptVersion`` if the model cannot be loaded, ``ConfigError`` if the device does not exist.
    """
    if settings.library == "onnx":
        from baton.engines.onnx_engine import OnnxEngine

        return OnnxEngine(directory, heads, settings)
    from baton.engines.torch_engine import TorchEngine

    return TorchEngine(directory, auto_model, heads, settings)


__all__ = ["Batch", "Engine", "EngineSettings", "Library", "Logits", "Precision", "WritingEngine", "load_engine"]
