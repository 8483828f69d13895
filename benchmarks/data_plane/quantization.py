"""Measure what int8 costs in F1: a version trained on real data is scored in fp32, and in int8 with either kind of scales.

``python -m benchmarks.data_plane.quantization --data DIRECTORY --task TASK`` writes its section to ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baton.artifacts.manifest import EngineChoice, Manifest
from baton.config.serving_settings import ServingSettings
from baton.engines import Batch
from baton.engines.onnx_engine import FILES
from baton.engines.onnx_export import export_fp32, export_int8
from baton.engines.onnx_scales import fix_scales
from baton.predict.predictor import Predictor
from baton.tasks import task_type
from baton.wording import counted
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import SUBJECTS, Service, draw_questions, holdout_of, train_of
from training.data.sources import parse, read
from training.int8_ranges import TOKENS, draw_windows
from training.judge.evaluate import evaluate
from training.publishing import copy_version_files

FP32 = EngineChoice(library="onnx", precision="fp32")
INT8 = EngineChoice(library="onnx", precision="int8")


def main() -> None:
    """Train, score, and write the section to the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_plane.quantization", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="as for `python -m benchmarks`")
    parser.add_argument("--task", choices=tuple(SUBJECTS), default="classification", help="default: classification")
    parser.add_argument("--epochs", type=int, help="default: those of the task's recipe")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    epochs = arguments.epochs or SUBJECTS[arguments.task].recipe.epochs
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as name:
        home = Path(name)
        data = draw_questions(arguments.data, home / "data") if arguments.task == "qa" else arguments.data
        with Service(home, data, arguments.task) as service:
            run, _ = service.train(f"training.epochs={epochs}")
            version = service.version_directory(run["version"])
        rows = _score(version, home / "exports", data, arguments.task)
    heading = f"## Quantization: {arguments.task}"
    section = (
        f"{heading}\n\nThe recipe of «Training: {arguments.task}», {counted(epochs, 'epoch')}; test rows of "
        f"{arguments.data.name}, scored as\nruns do, with one thread. Fixed scales: from {TOKENS:,} tokens of training texts, "
        "as Baton serves it. Scales of\neach pass: dynamic quantization, one window a pass.\n\n"
        "| engine | F1 | less than fp32 | rows/s |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    options = f"--data …/{arguments.data.resolve().name} --task {arguments.task} --epochs {epochs}"
    write(arguments.out, section, head_of("benchmarks.data_plane.quantization", options))
    print(section)


def _score(version: Path, exports: Path, data: Path, task: str) -> list[str]:
    """Return a row of the table for each engine."""
    task_cls = task_type(task)
    train, test = (parse(task_cls, {}, read(str(path), "train"), str(path)) for path in (train_of(data), holdout_of(data)))
    manifest = Manifest.from_bytes((version / "baton.json").read_bytes(), str(version))
    windows = draw_windows(version, manifest, train)
    rows, exact = [], 0.0
    kinds: list[tuple[str, EngineChoice, Sequence[Batch]]] = [
        ("fp32", FP32, ()),
        ("int8, fixed scales", INT8, windows),
        ("int8, scales of each pass", INT8, ()),
    ]
    for name, choice, seen in kinds:
        shutil.rmtree(exports, ignore_errors=True)
        exports.mkdir()
        copy_version_files(version, exports)
        export_fp32(exports, task_cls.auto_model, task_cls.heads, manifest.max_length)
        if choice is INT8:
            export_int8(exports)
        if seen:
            fix_scales(exports / FILES["int8"], seen)
        f1, seconds = _evaluate(exports, manifest.model_copy(update={"engine": choice}), test)
        exact = exact or f1
        rows.append(f"| {name} | {f1:.4f} | {exact - f1:+.4f} | {len(test) / seconds:.0f} |")
    return rows


def _evaluate(directory: Path, manifest: Manifest, test: Sequence[Any]) -> tuple[float, float]:
    """Return the F1 of a version, and the seconds that scoring took."""
    predictor = Predictor.load(directory, manifest, ServingSettings(), threads=1)
    predictor.warm()
    began = time.perf_counter()
    score = evaluate(predictor, test, lambda done, total: None).score
    return float(score.metrics["f1"]), time.perf_counter() - began


if __name__ == "__main__":
    main()
