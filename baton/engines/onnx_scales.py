"""An int8 graph that scales activations anew in each pass → one with fixed scales, in which texts may share a pass.

With the scales of dynamic quantization a text gets other scores beside others, because they are taken over a whole pass.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from baton.engines.base import Batch
from baton.engines.onnx_engine import FIXED, SCALES
from baton.engines.onnx_export import first_line
from baton.errors import NotExportable

STEPS = 255
"""Steps of an unsigned 8-bit number."""

QUANTIZING = ("DynamicQuantizeMatMul", "DynamicQuantizeLinear")
"""Operators that choose a scale."""

CONTRIB = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

Range = tuple[float, float]


def fix_scales(path: Path, windows: Sequence[Batch]) -> None:
    """Rewrite the int8 graph at ``path`` with scales that cover what each of ``windows`` brings about.

    Values beyond are cut off (static quantization by minimum and maximum: ONNX Runtime, «Quantize ONNX models»).

    Raises:
        NotExportable: the scales of this graph cannot be fixed; it is left as it is.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="baton-export-") as scratch:
            model = _fuse(path, Path(scratch) / "fused.onnx")
            _require_known(model.graph)
            _rewrite(model.graph, _observe(model, Path(scratch) / "observed.onnx", windows))
    except NotExportable:
        raise
    except Exception as error:  # onnx and ONNX Runtime share no base class
        raise NotExportable(first_line(error)) from error
    model.metadata_props.add(key=SCALES, value=FIXED)
    onnx.save(model, str(path))


def _fuse(path: Path, fused: Path) -> onnx.ModelProto:
    """Return the graph with ONNX Runtime's own operators, which do several steps at once."""
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(fused)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(str(fused))


def _require_known(graph: onnx.GraphProto) -> None:
    """Raise ``NotExportable`` if there are operators that choose a scale and are not known here."""
    unknown = {node.op_type for node in graph.node if node.op_type.startswith("DynamicQuantize")} - set(QUANTIZING)
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        unknown.add("loops and branches")
    if unknown:
        raise NotExportable(f"the scales of {', '.join(sorted(unknown))} cannot be fixed")


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # replicas may need the processors
    return options


def _quantized(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the activations that are quantized."""
    names = [node.input[0] for node in graph.node if node.op_type in QUANTIZING]
    return list(dict.fromkeys(names))


def _observe(model: onnx.ModelProto, path: Path, windows: Sequence[Batch]) -> Mapping[str, Range]:
    """Run ``windows`` one by one, and return the least and the greatest value of each quantized activation."""
    names = _quantized(model.graph)
    if not names:
        return {}
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    for name in names:
        for operator in ("ReduceMin", "ReduceMax"):
            output = f"{name}:{operator}"
            observed.graph.node.append(helper.make_node(operator, [name], [output], keepdims=0))
            observed.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
    onnx.save(observed, str(path))
    session = onnxruntime.InferenceSession(str(path), _options(), providers=["CPUExecutionProvider"])
    accepts = [item.name for item in session.get_inputs()]
    outputs = [f"{name}:{operator}" for operator in ("ReduceMin", "ReduceMax") for name in names]
    seen = np.array([session.run(outputs, {name: window[name] for name in accepts}) for window in windows])
    least, greatest = np.split(seen, 2, axis=1)
    return dict(zip(names, zip(least.min(axis=0).tolist(), greatest.max(axis=0).tolist(), strict=True), strict=True))


def _rewrite(graph: onnx.GraphProto, ranges: Mapping[str, Range]) -> None:
    """Replace operators that choose a scale by those that are given one."""
    nodes: list[onnx.NodeProto] = []
    fixed: dict[str, tuple[str, str, str]] = {}
    renamed: dict[str, str] = {}

    def quantize(name: str) -> tuple[str, str, str]:
        """Return the names of an activation in 8 bits, of its scale and of its zero point."""
        if name not in fixed:
            fixed[name] = (f"{name}:8", f"{name}:scale", f"{name}:zero")
            for value, initializer in zip(_scale(ranges[name]), fixed[name][1:], strict=True):
                graph.initializer.append(numpy_helper.from_array(np.asarray(value), initializer))
            nodes.append(helper.make_node("QuantizeLinear", [name, *fixed[name][1:]], [fixed[name][0]], f"{name}:quantize"))
        return fixed[name]

    for node in graph.node:
        if node.op_type == "DynamicQuantizeMatMul":
            activation, weight, weight_scale, *optional = node.input
            weight_zero, bias = [*optional, "", ""][:2]
            eight_bits, scale, zero = quantize(activation)
            inputs = [eight_bits, weight, scale, weight_scale, zero, weight_zero, bias]
            nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, node.output, node.name, domain=CONTRIB))
        elif node.op_type == "DynamicQuantizeLinear":
            renamed.update(zip(node.output, quantize(node.input[0]), strict=True))
        else:
            nodes.append(node)
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    rewritten = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # those of the graph die with its list
    del graph.node[:]
    graph.node.extend(rewritten)


def _scale(values: Range) -> tuple[np.float32, np.uint8]:
    """Return scale and zero point of unsigned 8-bit numbers that cover a range and zero."""
    if not np.isfinite(values).all():
        raise NotExportable("some activations are not numbers")
    least, greatest = min(values[0], 0.0), max(values[1], 0.0)
    scale = (greatest - least) / STEPS or 1.0
    return np.float32(scale), np.uint8(round(-least / scale))
