"""Measure macro-F1, time and peak memory of training with each value of ``training.tune``.

``python -m benchmarks.learning.tuning --data DIRECTORY`` measures one after the other, each in a separate process, and writes a
section of the results. It needs no service and no Ray: it builds and runs the `Trainer` of a Ray Train worker, and evaluates
the last checkpoint with the predictor that would serve it. ``--rows`` and ``--set`` are for experiments with settings.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from baton.artifacts.manifest import Manifest
from baton.artifacts.storage import Storage
from baton.config.file import override
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.tasks import task_type
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import BASE_MODEL, holdout_of, read_rows, train_of
from training.data import datasets
from training.judge.evaluate import evaluate

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "full": {"epochs": 3, "learning_rate": 5.0e-4},
    "last_n": {"epochs": 3, "learning_rate": 1.0e-3, "last_n": 3},
    "lora": {"epochs": 3, "learning_rate": 2.0e-3},
    "head": {"epochs": 10, "learning_rate": 5.0e-3},
}
"""Suitable settings for each value: the fewer weights are trained, the higher is the learning rate."""

SHARED: Mapping[str, Any] = {"batch_size": 32, "device": "cpu"}


def main() -> None:
    """Parse the command line. Measure each value in a separate process, or (``--one``) a single value in this process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.tuning", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.jsonl and test.jsonl: text and label")
    parser.add_argument("--rows", type=int, help="train on this many random rows and write nothing")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores; fewer on a busy machine")
    parser.add_argument("--only", choices=tuple(RECIPES), action="append", help="default: all")
    parser.add_argument("--set", dest="assign", action="append", default=[], help="training.KEY=VALUE, for all measurements")
    parser.add_argument("--one", choices=tuple(RECIPES), help="measure one value in this process and print one JSON line")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="file to write; only the section with the same heading is replaced"
    )
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    results = {}
    for tune in arguments.only or RECIPES:
        results[tune] = _in_own_process(tune, arguments)
        print(tune, json.dumps(results[tune]), flush=True)
    if arguments.rows is None:
        options = [f"--data …/{arguments.data.resolve().name}", f"--threads {arguments.threads}"]
        options += [f"--only {tune}" for tune in arguments.only or ()] + [f"--set {item}" for item in arguments.assign]
        write(arguments.out, section(results), head_of("benchmarks.learning.tuning", " ".join(options)))
        print(f"written to {arguments.out}")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with one value of ``training.tune`` in this process.

    Return macro-F1 on the test file, seconds and peak memory of training, the number of trained weights, and the settings.
    """
    from training.fit.worker import build_trainer

    tune, assign, threads = arguments.one, arguments.assign, arguments.threads
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as name:
        storage = Storage(f"{name}/storage")
        settings = override(_settings(arguments, Path(name)), assign)
        task_cls = task_type(settings.task)
        dataset = datasets.freeze(settings.name, task_cls, settings.data, storage)
        began = time.perf_counter()
        trainer = build_trainer(_worker_config(settings, dataset, storage, threads), settings, Path(name), world_size=1)
        trainer.train()
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # before the evaluation adds to it
        checkpoint = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
        predictor = Predictor.load(checkpoint, _manifest(settings, dataset), settings.serving, threads=threads)
        score = evaluate(predictor, dataset.holdout, lambda done, total: None).score
        trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    return {
        "f1": score.metrics["f1"],
        "seconds": seconds,
        "peak_mib": peak,
        "trained": trained,
        "settings": {**RECIPES[tune], **dict(item.removeprefix("training.").split("=") for item in assign)},
    }


def section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the section of the results, with the ratio of each F1 to that of full tuning."""
    full = results["full"]["f1"] if "full" in results else None
    heads = ("tune", "settings", "trained weights", "macro-F1", "of full", "time", "peak memory")
    rows = [
        (
            tune,
            ", ".join(f"{key} {value}" for key, value in result["settings"].items()),
            f"{result['trained'] / 1e6:.2f} M",
            f"{result['f1']:.4f}",
            "–" if full is None else f"{result['f1'] / full:.3f}",
            f"{result['seconds']:.0f} s",
            f"{result['peak_mib']:.0f} MiB",
        )
        for tune, result in results.items()
    ]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
    return (
        "## Ways to tune\n\n"
        f"{', '.join(f'{key} {value}' for key, value in SHARED.items())}, bf16 where the hardware has it.\n"
        "Each in a process of its own: the worker's `Trainer` without Ray or a service. Time: from loading to the last\n"
        "checkpoint, with a validation and a checkpoint each epoch. Peak memory: of the whole process up to there, libraries\n"
        "included. F1: of the last checkpoint, on the test file. Only the vocabulary's rows in use are trained and counted.\n\n"
        f"{table}\n"
    )


def _in_own_process(tune: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.learning.tuning", "--data", str(arguments.data), "--one", tune]
    command += ["--threads", str(arguments.threads)]
    command += [] if arguments.rows is None else ["--rows", str(arguments.rows)]
    command += [part for item in arguments.assign for part in ("--set", item)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _settings(arguments: argparse.Namespace, folder: Path) -> ModelSettings:
    train = train_of(arguments.data)
    if arguments.rows is not None:
        drawn = random.Random(0).sample(read_rows(train), arguments.rows)
        train = folder / "train.jsonl"
        train.write_text("".join(json.dumps(row) + "\n" for row in drawn), encoding="utf-8")
    return ModelSettings.model_validate(
        {
            "name": "benchmark",
            "task": "classification",
            "base_model": BASE_MODEL,
            "data": {"train": str(train), "holdout": str(holdout_of(arguments.data))},
            "training": {"method": "fine_tune", "tune": arguments.one, **SHARED, **RECIPES[arguments.one]},
        }
    )


def _worker_config(settings: ModelSettings, dataset: datasets.Dataset, storage: Storage, threads: int) -> Any:
    from training.fit.request import WorkerConfig

    return WorkerConfig(
        run_id="benchmark",
        settings=settings.model_dump(mode="json"),
        labels=dataset.version.labels,
        dataset_uri=dataset.version.uri,
        storage=storage.url,
        database="",
        threads=threads,
        use_gpu=False,
    )


def _manifest(settings: ModelSettings, dataset: datasets.Dataset) -> Manifest:
    return Manifest(
        model=settings.name,
        task=settings.task,
        labels=dataset.version.labels,
        max_length=settings.max_length,
        base_model=settings.base_model,
        dataset={},
        training={},
        metrics={},
        code_version="0",
    )


if __name__ == "__main__":
    main()
