"""A model's directory → the files that ONNX Runtime serves: ``model.onnx`` in fp32, and ``model.int8.onnx``.

``model.onnx`` has the graph only: its weights are those of ``model.safetensors``, to which it refers by offset. So fp32 needs
no further storage, and both engines run the same numbers. Every export is compared with torch before it is used.
"""

from __future__ import annotations

import inspect
import itertools
import json
import struct
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from baton.engines.base import Batch, EngineSettings
from baton.engines.onnx_engine import FILES, OnnxEngine
from baton.engines.torch_engine import load_model
from baton.errors import NotExportable

WEIGHTS = "model.safetensors"

OPSET = 17
"""The first set of ONNX operators with LayerNormalization. Newer ones bring nothing that these models need."""

TOLERANCE = 1e-3
"""Largest difference between the logits of torch and ONNX Runtime, absolute or relative. Correct exports differ by 1e-5."""

PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")
"""What ONNX Runtime's quantizer looks for in a graph that is prepared for it. Without, it logs a warning, and so sets up the
process's root logger."""

TRACED = (2, 16)
"""Rows and tokens of the traced batch; both stay variable. One row is padded, so that the graph reads the mask."""


def export_fp32(directory: Path, auto_model: str, heads: Sequence[str], max_length: int) -> None:
    """Write ``model.onnx`` beside the ``model.safetensors`` of ``directory``.

    Raises:
        NotExportable: torch cannot trace the model, or ONNX Runtime gives other logits than torch for some shape.
    """
    path = directory / FILES["fp32"]
    model = load_model(auto_model, directory).eval()
    try:
        traced = _batch(*TRACED, model, max_length)
        accepts = [name for name in inspect.signature(model.forward).parameters if name in traced]
        with tempfile.TemporaryDirectory(prefix="baton-export-") as scratch:  # a large model is written in many files
            exported = Path(scratch) / "model.onnx"
            _trace(_Positional(model, accepts, heads).eval(), [torch.from_numpy(traced[name]) for name in accepts], exported)
            _refer_to_weights(exported, directory / WEIGHTS, path)
        engine = OnnxEngine(directory, heads, EngineSettings(library="onnx"))
        for rows, tokens in ((1, 4), (3, 24), (2, max_length)):
            _compare(model, accepts, engine, _batch(rows, tokens, model, max_length))
    except NotExportable:
        path.unlink(missing_ok=True)
        raise
    except Exception as error:  # torch, onnx and ONNX Runtime share no base class
        path.unlink(missing_ok=True)
        raise NotExportable(first_line(error)) from error


def export_int8(directory: Path) -> None:
    """Write ``model.int8.onnx`` from ``model.onnx``: weights in 8 bits for each output channel, activations as they come.

    The weights use 7 of the 8 bits. CPUs without VNNI add products of 8 bits in 16, which would overflow: a version would
    answer otherwise there than where it was evaluated (ONNX Runtime, «Quantize ONNX models», «reduce_range»).

    Each pass has scales of its own, and one window, until `fix_scales` changes that.

    Raises:
        NotExportable: ONNX Runtime cannot quantize the model.
    """
    folded = directory / "folded.onnx"  # quantisation finds only weights that no operator stands before
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    try:
        onnxruntime.InferenceSession(str(directory / FILES["fp32"]), options, providers=["CPUExecutionProvider"])
        model = onnx.load(str(folded))
        model.metadata_props.add(key=PREPARED[0], value=PREPARED[1])
        onnx.save(model, str(folded))
        quantize_dynamic(
            str(folded), str(directory / FILES["int8"]), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
        )
    except Exception as error:
        (directory / FILES["int8"]).unlink(missing_ok=True)
        raise NotExportable(first_line(error)) from error
    finally:
        folded.unlink(missing_ok=True)


class _Positional(torch.nn.Module):  # type: ignore[misc]  # torch is untyped to mypy
    """A model that takes its inputs by position and returns its heads as a tuple, as the exporter wants it."""

    def __init__(self, model: Any, accepts: Sequence[str], heads: Sequence[str]) -> None:
        super().__init__()
        self.model, self.accepts, self.heads = model, tuple(accepts), tuple(heads)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(**dict(zip(self.accepts, inputs, strict=True)))
        return tuple(output[head] for head in self.heads)


def _trace(module: _Positional, inputs: Sequence[torch.Tensor], path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, about shapes: `_compare` looks at what came of them
        outputs = module(*inputs)
        shapes = zip((*module.accepts, *module.heads), (*inputs, *outputs), strict=True)
        torch.onnx.export(
            module,
            tuple(inputs),
            str(path),
            input_names=list(module.accepts),
            output_names=list(module.heads),
            dynamic_axes={
                name: {0: "windows", 1: "tokens"} if tensor.shape[:2] == TRACED else {0: "windows"} for name, tensor in shapes
            },
            opset_version=OPSET,
            do_constant_folding=False,  # it would store changed copies of weights
            dynamo=False,  # the newer exporter takes ten times as long, and exports no further family
        )


def first_line(error: Exception) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def _refer_to_weights(exported: Path, weights: Path, path: Path) -> None:
    """Write the exported graph to ``path``. Each weight that ``weights`` has, too, becomes a reference to the bytes there."""
    graph = onnx.load(str(exported))
    with weights.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))  # the format of safetensors: length of the header, header, tensors
        header = json.loads(file.read(size))
        for tensor in graph.graph.initializer:
            entry = header.get(tensor.name.removeprefix("model."))
            if entry is None:
                continue
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            file.seek(begin)
            if file.read(end - begin) != numpy_helper.to_array(tensor).tobytes():
                continue
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS), ("offset", begin), ("length", end - begin)):
                tensor.external_data.add(key=key, value=str(value))
    onnx.save(graph, str(path))


def _compare(model: Any, accepts: Sequence[str], engine: OnnxEngine, batch: Batch) -> None:
    """Raise ``NotExportable`` unless the export answers a batch as torch does."""
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(batch[name]) for name in accepts})
    for name, logits in engine.forward(batch).items():
        wanted = expected[name].numpy()
        known = _known(logits, batch)
        if logits.shape != wanted.shape or not np.allclose(logits[known], wanted[known], TOLERANCE, TOLERANCE):
            rows, tokens = batch["input_ids"].shape
            raise NotExportable(f"ONNX Runtime gives other {name} than torch for {rows} windows of {tokens} tokens")


def _known(logits: NDArray[np.float32], batch: Batch) -> NDArray[np.bool_]:
    """Return which logits count: those of padding are arbitrary, if there is one for each token."""
    mask = batch["attention_mask"].astype(bool)
    return mask if logits.shape[:2] == mask.shape else np.ones(len(logits), dtype=bool)


def _batch(rows: int, tokens: int, model: Any, max_length: int) -> dict[str, NDArray[np.int64]]:
    """Return a batch of token ids that every vocabulary has; each row is shorter than the one before."""
    width = min(tokens, max_length)
    ids = np.fromiter(itertools.cycle(range(5, 25)), np.int64, rows * width).reshape(rows, width)
    lengths = np.maximum(width - np.arange(rows) * (width // 4), 1)
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask == 1, ids, model.config.pad_token_id or 0)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
