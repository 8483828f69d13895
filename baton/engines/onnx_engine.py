"""Runs exported models with ONNX Runtime on CPUs, in fp32 or int8. Imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from baton.engines.base import Batch, EngineSettings, Logits
from baton.errors import CorruptVersion

FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
"""Files that `baton.engines.onnx_export` writes, by precision."""

SCALES, FIXED = "baton.scales", "fixed"
"""Entry of a graph's metadata, and its value if the scales of the activations do not depend on what stands in a pass."""

WARNINGS = 3
"""ONNX Runtime's severity «error»: its warnings are about its own optimisations."""


class OnnxEngine:
    """A model that ONNX Runtime runs. A pass costs as its tokens do: neither shapes nor large batches make it much faster."""

    overhead_tokens = 8
    length_step = 1

    def __init__(self, directory: Path, heads: Sequence[str], settings: EngineSettings) -> None:
        precision = "int8" if settings.precision == "int8" else "fp32"
        self._path = directory / FILES[precision]
        self._heads = list(heads)
        self._session = self._open(settings.threads)
        self._accepts = [item.name for item in self._session.get_inputs()]  # DistilBERT for example has no token_type_ids
        # Without fixed scales, a window would get other scores beside others.
        independent = precision == "fp32" or self._session.get_modelmeta().custom_metadata_map.get(SCALES) == FIXED
        self.max_rows = None if independent else 1
        self.description = f"onnx cpu {precision}" + ("" if independent else " dynamic")

    def forward(self, batch: Batch) -> Logits:
        """Run one forward pass and return the logits."""
        outputs = self._session.run(self._heads, {name: batch[name] for name in self._accepts})
        return dict(zip(self._heads, outputs, strict=True))

    def limit_threads(self, threads: int) -> None:
        """Load the model again, with at most so many threads: ONNX Runtime fixes their number then."""
        self._session = self._open(threads)

    def _open(self, threads: int | None) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = WARNINGS
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # it would keep a plan of the memory for each shape that ever came
        # Threads that wait would take the CPU from the event loop and from other replicas.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no base class
            if not self._path.is_file():
                raise CorruptVersion(
                    f"the version has no {self._path.name}, which serving.engine and serving.precision demand; with `auto` for "
                    "both it is served by the engine that it has"
                ) from None
            raise CorruptVersion(f"{self._path} does not load in ONNX Runtime: {error}") from error
