"""Measure what each engine can do in this process, without HTTP and Ray: texts per second by batch size and threads.

``python -m benchmarks.data_plane.engines --data DIRECTORY`` writes its section to ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from baton.artifacts.manifest import EngineChoice, Manifest
from baton.config.serving_settings import ServingSettings
from baton.engines.onnx_engine import FILES
from baton.engines.onnx_export import export_fp32, export_int8
from baton.engines.onnx_scales import fix_scales
from baton.engines.torch_engine import has_fast_bf16
from baton.predict.predictor import Predictor
from baton.tasks.classification import Classification, TextExample
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import BASE_MODEL, LABELS, holdout_of, read_rows, save_model
from training.int8_ranges import draw_windows

BATCHES = (1, 8, 32, 64)
SECONDS, ROUNDS, MAX_LENGTH = 2.0, 3, 128


def main() -> None:
    """Measure, and write the section to the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_plane.engines", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with test.jsonl, whose rows have a text")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    texts = [row["text"] for row in read_rows(holdout_of(arguments.data))[:512]]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as name:
        directory = save_model(Path(name) / "model")
        began = time.perf_counter()
        export_fp32(directory, Classification.auto_model, Classification.heads, MAX_LENGTH)
        exported = time.perf_counter()
        rows = [TextExample(text=text, label="any") for text in texts]
        export_int8(directory)
        fix_scales(directory / FILES["int8"], draw_windows(directory, _manifest(EngineChoice()), rows))
        quantized = time.perf_counter()
        choices = [
            EngineChoice(library="torch", precision="bf16" if has_fast_bf16("cpu") else "fp32"),
            EngineChoice(library="onnx", precision="fp32"),
            EngineChoice(library="onnx", precision="int8"),
        ]
        lines = [line for threads in (1, 2) for line in _lines(directory, choices, threads, texts)]
        sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in sorted(directory.glob("model.*")))
    section = (
        "## Engines\n\n"
        f"{BASE_MODEL} with {LABELS} labels, in one process; real questions, grouped by the predictor; texts/s, the best of\n"
        f"{ROUNDS} rounds of {SECONDS:g} s, the engines in turn.\n\n"
        f"| engine | threads | a pass starts for | {' | '.join(f'batch {size}' for size in BATCHES)} |\n"
        f"|---|---|---|{'---|' * len(BATCHES)}\n" + "\n".join(lines) + "\n\n"
        f"Export and its comparison with torch: {exported - began:.1f} s; int8: {quantized - exported:.1f} s. Files: {sizes}.\n"
    )
    write(arguments.out, section, head_of("benchmarks.data_plane.engines", f"--data …/{arguments.data.name}", model=BASE_MODEL))
    print(section)


def _lines(directory: Path, choices: list[EngineChoice], threads: int, texts: list[str]) -> list[str]:
    """Return a row of the table for each engine."""
    predictors = []
    for choice in choices:
        predictors.append(Predictor.load(directory, _manifest(choice), ServingSettings(), threads=threads))
    best: dict[tuple[str, int], float] = {}
    overheads = {}
    for _ in range(ROUNDS):
        for predictor in predictors:
            predictor.engine.limit_threads(threads)
            predictor.warm()
            name = predictor.engine.description
            overheads[name] = predictor.overhead_tokens
            for size in BATCHES:
                best[name, size] = max(best.get((name, size), 0.0), _rate(predictor, texts, size))
    return [
        f"| {name} | {threads} | {tokens} tokens | " + " | ".join(f"{best[name, size]:,.0f}" for size in BATCHES) + " |"
        for name, tokens in overheads.items()
    ]


def _manifest(choice: EngineChoice) -> Manifest:
    labels = tuple(f"label {number}" for number in range(LABELS))
    facts = {"model": "m", "task": "classification", "base_model": BASE_MODEL, "code_version": "0"}
    return Manifest(**facts, labels=labels, max_length=MAX_LENGTH, dataset={}, training={}, metrics={}, engine=choice)


def _rate(predictor: Predictor, texts: list[str], size: int) -> float:
    inputs = [predictor.task.from_wire(text) for text in texts]
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        start = done % len(inputs)
        predictor.predict(inputs[start : start + size])
        done += size
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
