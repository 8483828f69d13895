"""A checkpoint → the engines that may serve it, and which of them does.

The fastest engine that loses at most `ALLOWED_LOSS` of the main metric on the holdout serves a version, and the gate judges it
with that engine. Knows neither the registry nor the storage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from baton.artifacts.manifest import EngineChoice
from baton.config.serving_settings import ServingSettings
from baton.engines import Batch, onnx_engine
from baton.errors import NotExportable
from baton.tasks import AnyTask

ALLOWED_LOSS = 0.005
"""Half a point of the main metric, which a faster engine may lose against fp32."""

WORTHWHILE = 0.9
"""Share of the exact engine's time that a faster one may need. One that saves less is not worth its changed answers, and
would be chosen or not by chance."""

TOKEN_BY_TOKEN = "answers are written token by token, and only models that answer in one pass are exported for ONNX Runtime"
"""Why a model that writes is left to torch."""

TORCH = EngineChoice(library="torch")
TORCH_BF16 = EngineChoice(library="torch", precision="bf16")
ONNX_FP32 = EngineChoice(library="onnx", precision="fp32")
ONNX_INT8 = EngineChoice(library="onnx", precision="int8")


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What an engine achieved on the holdout."""

    description: str
    metric: float
    """The main metric."""
    latency_ms: float
    """Of one answer, when nothing disturbs."""


def export(
    directory: Path,
    task_cls: type[AnyTask],
    max_length: int,
    serving: ServingSettings,
    windows: Callable[[], Sequence[Batch]],
) -> tuple[tuple[EngineChoice, ...], str]:
    """Write the files of the engines that ``serving`` allows into the version's ``directory``.

    Return these engines, the exact one last, and the reason if torch is left alone. ``windows``: returns those from which the
    scales of int8 are taken, each a batch of its own.

    Raises:
        NotExportable: ``serving`` demands an engine that cannot run the model.
    """
    writes = task_cls.target == "text"
    if writes or serving.engine == "torch" or serving.on_gpu or serving.precision == "bf16":
        return (TORCH,), TOKEN_BY_TOKEN if writes else ""
    from baton.engines.onnx_export import export_fp32, export_int8  # brings torch, which takes seconds to load
    from baton.engines.onnx_scales import fix_scales
    from baton.engines.torch_engine import has_fast_bf16

    try:
        export_fp32(directory, task_cls.auto_model, task_cls.heads, max_length)
    except NotExportable as error:
        if serving.engine == "onnx" or serving.precision == "int8":
            raise NotExportable(
                f"serving.engine: this model cannot be exported for ONNX Runtime ({error}); allowed: auto, torch"
            ) from error
        return (TORCH,), f"the model cannot be exported for ONNX Runtime ({error})"
    if serving.precision == "fp32":
        return (ONNX_FP32,), ""
    try:
        export_int8(directory)
    except NotExportable as error:
        if serving.precision == "int8":
            raise NotExportable(f"serving.precision: this model cannot be quantized ({error}); allowed: auto, fp32") from error
        return (ONNX_FP32,), f"the model cannot be quantized ({error})"
    if seen := windows():
        with contextlib.suppress(NotExportable):  # it is still int8, with scales of each pass, as the engine's description says
            fix_scales(directory / onnx_engine.FILES["int8"], seen)
    if serving.precision == "int8":
        return (ONNX_INT8,), ""
    bf16 = (TORCH_BF16,) if serving.engine == "auto" and has_fast_bf16("cpu") else ()
    return (ONNX_INT8, *bf16, ONNX_FP32), ""


def fastest(tried: Sequence[Tried]) -> tuple[int, str]:
    """Return the index of the engine to serve with, and the reason if a faster one was refused. The exact one comes last."""
    exact = tried[-1]
    faster = [index for index, one in enumerate(tried) if one.latency_ms <= WORTHWHILE * exact.latency_ms]
    allowed = [index for index in faster if tried[index].metric >= exact.metric - ALLOWED_LOSS]
    best = min(allowed, key=lambda index: tried[index].latency_ms, default=len(tried) - 1)
    refused = [tried[index] for index in faster if index not in allowed and tried[index].latency_ms < tried[best].latency_ms]
    lost = "; ".join(f"{one.description} scores {exact.metric - one.metric:.3f} less on the holdout" for one in refused)
    return best, lost and f"{lost} (allowed: {ALLOWED_LOSS})"


def loses(tried: Sequence[Tried]) -> bool:
    """Return whether the first engine loses more than it may against the exact one, which comes last."""
    return tried[0].metric < tried[-1].metric - ALLOWED_LOSS


def scale_each_pass(directory: Path) -> None:
    """Write the int8 graph of a version again, with scales of activations that each pass takes anew.

    They are finer than fixed ones, and pay for it with passes of one window each, which costs little where windows are long.
    """
    from baton.engines.onnx_export import export_int8

    export_int8(directory)


def drop_unused(directory: Path, choice: EngineChoice) -> None:
    """Remove the files of engines that do not serve the version. The graph in fp32 stays: it is small, and may be asked for."""
    if choice.precision != "int8":
        (directory / onnx_engine.FILES["int8"]).unlink(missing_ok=True)
