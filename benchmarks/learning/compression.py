"""Measure a version that was pruned and distilled beside the one that taught it: macro-F1, size, speed.

``python -m benchmarks.learning.compression --data DIRECTORY`` trains a version with nothing set, then smaller ones from it
(`training.prune`, `training.distil`), with the steps of a run but without Ray or a service. Each is published as a run does it,
with the engine that serves it best. Speed is measured with all versions taking turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from baton.artifacts.storage import Storage
from baton.config.file import override
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.store.records import Decision, DecisionKind, ModelVersion, Verdict
from baton.store.registry import Registry
from baton.tasks import task_type
from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.service import BASE_MODEL, holdout_of, train_of
from training import pipeline
from training.context import Clock, Context
from training.data import datasets
from training.fit.request import Trained
from training.fit.worker import build_trainer

PRUNED = "training.prune={layers: 4, units: 0.3}"

SMALLER: Mapping[str, Sequence[str]] = {
    "4 layers": ("training.prune={layers: 4}",),
    "4 layers, 7 of 10 units": (PRUNED,),
    "the same, distilled": (PRUNED, "training.distil={}"),
}
"""What is set for each smaller version."""

FURTHER = (
    "training.start_from=champion",
    "training.replay=null",
    "training.validation=0",
    "training.epochs=3",
    "training.learning_rate=1e-4",
)
"""What is set for all of them."""

BATCH, ROUNDS = 32, 15


@dataclass(frozen=True)
class Measured:
    """A version and what was measured."""

    version: ModelVersion
    seconds: float
    """Of the training, from the first step of the run to the last checkpoint."""


def main() -> None:
    """Parse the command line, measure, and write the section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.compression", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.jsonl and test.jsonl: text and label")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the training; default: all cores")
    parser.add_argument("--set", dest="assign", action="append", default=[], help="KEY=VALUE for the smaller versions")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="file to write; only the section with the same heading is replaced"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="baton-compression-") as home:
        text = measure(Path(home), arguments)
    options = [f"--data …/{arguments.data.resolve().name}", *(f"--set '{item}'" for item in arguments.assign)]
    write(arguments.out, text, head_of("benchmarks.learning.compression", " ".join(options)))
    print(text)


def measure(home: Path, arguments: argparse.Namespace) -> str:
    """Train all versions and return a section of the results."""
    torch.set_num_threads(arguments.threads)
    world = World(home, arguments)
    measured = {"full": world.train(())}
    world.promote(measured["full"].version)
    for name, assign in SMALLER.items():
        measured[name] = world.train((*FURTHER, *assign, *arguments.assign))
        print(f"{name}: {measured[name].version.metrics['f1']:.4f} after {measured[name].seconds:.0f} s", flush=True)
    return section(measured, world.storage, world.speeds([one.version for one in measured.values()]))


class World:
    """A registry and a storage with a frozen data set."""

    def __init__(self, home: Path, arguments: argparse.Namespace) -> None:
        self.database, self.threads, self.home = f"sqlite:///{home}/baton.db", arguments.threads, home
        self.registry, self.storage = Registry(self.database), Storage(f"{home}/storage")
        self.registry.migrate()
        self.settings = ModelSettings.model_validate(
            {
                "name": "benchmark",
                "task": "classification",
                "base_model": BASE_MODEL,
                "data": {"train": str(train_of(arguments.data)), "holdout": str(holdout_of(arguments.data))},
                "training": {"device": "cpu"},
            }
        )
        self.registry.declare_model(self.settings.name)
        self.dataset = datasets.freeze(self.settings.name, task_type(self.settings.task), self.settings.data, self.storage)

    def train(self, assign: Sequence[str]) -> Measured:
        """Train and publish a version with the steps of a run; the worker's part runs in this process."""
        settings, run_id = override(self.settings, assign), uuid.uuid4().hex
        clock = Clock(lambda stage, progress: None)
        context = Context(settings=settings, declared=settings, registry=self.registry, storage=self.storage, clock=clock)
        began = time.perf_counter()
        context, start, recipe = pipeline.choose_recipe(context, self.dataset)
        request = pipeline.make_request(context, run_id, self.dataset, start, self.database)
        request, teaching = pipeline.find_teacher(context, self.dataset, request)
        request, pruning = pipeline.prune(context, request)
        request, _ = pipeline.fit_probe(context, request, recipe)
        scratch = self.home / run_id
        scratch.mkdir()
        trainer = build_trainer(request.worker_config(self.threads, use_gpu=False), request.settings, scratch, 1)
        trainer.train()
        seconds = time.perf_counter() - began
        checkpoint = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
        epochs = round(trainer.state.epoch)
        trained = Trained(directory=checkpoint, f1=None, epoch=epochs, start=request.start, details={**teaching, **pruning})
        return Measured(pipeline.publish(context, run_id, self.dataset, trained)[0], seconds)

    def promote(self, version: ModelVersion) -> None:
        """Make ``version`` the champion, whatever the gate says."""
        champion = self.registry.champion(self.settings.name)
        decision = Decision(
            model=self.settings.name,
            candidate=version.number,
            champion=champion.version,
            champion_sequence=champion.sequence,
            kind=DecisionKind.FORCE,
            verdict=Verdict.PROMOTE,
            sentence="a benchmark",
            reason="a benchmark",
        )
        self.registry.promote(decision, champion)

    def speeds(self, versions: Sequence[ModelVersion]) -> list[float]:
        """Return the texts/s of each version in one thread, in batches of `BATCH`; the median of `ROUNDS`, in turn."""
        predictors = []
        for version in versions:
            directory, manifest = self.storage.fetch(version, self.home / "cache")
            predictors.append(Predictor.load(directory, manifest, self.settings.serving, threads=1))
        inputs = [predictors[0].task.input_of(row) for row in self.dataset.holdout[: BATCH * 16]]
        seconds: list[list[float]] = [[] for _ in predictors]
        for _ in range(ROUNDS + 1):
            for predictor, times in zip(predictors, seconds, strict=True):
                began = time.perf_counter()
                for first in range(0, len(inputs), BATCH):
                    predictor.predict(inputs[first : first + BATCH])
                times.append(time.perf_counter() - began)
        return [len(inputs) / statistics.median(times[1:]) for times in seconds]


def section(measured: Mapping[str, Measured], storage: Storage, speeds: Sequence[float]) -> str:
    """Return the section of the results: every engine of every version, and the speed of the one that was chosen."""
    heads = ("version", "parameters", "all files", "engine", "macro-F1", "one text", "texts/s", "training")
    rows = []
    for (name, one), speed in zip(measured.items(), speeds, strict=True):
        manifest, pruning = storage.manifest(one.version), one.version.lineage.get("pruning")
        assert manifest.engine is not None
        weights = f"{pruning['parameters'] / 1e6:.1f} M" if pruning else "–"
        facts = (name, weights, f"{manifest.megabytes:.0f} MB")
        for engine, found in sorted(manifest.engine.measured.items(), key=lambda item: item[1]["latency_ms"]):
            chosen = engine == one.version.lineage["engine"]
            score, took = f"{found['metric']:.4f}", f"{found['latency_ms']:.2f} ms"
            served = (f"{speed:.0f}", f"{one.seconds:.0f} s") if chosen else ("", "")
            rows.append((*facts, f"**{engine}**" if chosen else engine, score, took, *served))
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
    told = "; ".join(f"{name}: {', '.join(assigned)}" for name, assigned in SMALLER.items())
    return (
        "## Smaller models\n\n"
        f"For all smaller ones: {', '.join(FURTHER)}. {told}.\n\n"
        "F1 and the time of one text as the run measures them for each engine, on the test file; in bold the engine that\n"
        "`auto` chose. Texts/s: of that engine in one thread, batches of "
        f"{BATCH} real questions, the median of {ROUNDS} rounds in turn.\n\n"
        f"{table}\n"
    )


if __name__ == "__main__":
    main()
