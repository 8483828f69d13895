"""Training: wall time and F1 of a Baton run against the plain single-process `Trainer`, one after the other, alternating.

Each round has the seed of its number, from 0, on both sides.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.service import MODEL, Service


@dataclass(frozen=True, kw_only=True)
class Result:
    """One side's training: wall time, scores by metric, and (Baton's) seconds by stage."""

    seconds: float
    scores: Mapping[str, float]
    stages: Mapping[str, float]


def measure(service: Service, rounds: int = 1) -> str:
    """One section of the results. The service is up but idle meanwhile."""
    plain, ours = [], []
    for seed in range(rounds):
        plain.append(_plain(service, seed))
        ours.append(_ours(service, seed))
    metrics = service.subject.metrics
    heads = ["seed", "plain `Trainer`", *metrics.values(), "Baton run", *metrics.values(), "wall time ratio"]
    rows = [
        [str(number), *_cells(theirs, metrics), *_cells(mine, metrics), f"{mine.seconds / theirs.seconds:.2f}"]
        for number, (theirs, mine) in enumerate(zip(plain, ours, strict=True))
    ]
    if rounds > 1:
        theirs, mine = _mean(plain), _mean(ours)
        rows.append(["mean", *_cells(theirs, metrics), *_cells(mine, metrics), f"{mine.seconds / theirs.seconds:.2f}"])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in ours[-1].stages.items())
    recipe = {key: value for key, value in asdict(service.subject.recipe).items() if key != "seed" and value is not None}
    settings = ", ".join(f"{key} {value}" for key, value in recipe.items())
    return (
        f"## Training: {service.task}\n\n"
        f"{settings};\n"
        "both: bf16 autocast, all cores, beside the idle service. Plain: a process from start to end, training\n"
        "and scoring the holdout. Baton: from asking for the run to its decision (job start, validation and a checkpoint each\n"
        f"epoch, scoring, publishing, gate).\n{service.subject.note}\n\n"
        f"{table}\n\nStages of the last Baton run: {stages}.\n"
    )


def _cells(result: Result, metrics: Mapping[str, str]) -> list[str]:
    return [f"{result.seconds:.0f} s", *(f"{result.scores[key]:.4f}" for key in metrics)]


def _mean(results: Sequence[Result]) -> Result:
    return Result(
        seconds=statistics.mean(result.seconds for result in results),
        scores={key: statistics.mean(result.scores[key] for result in results) for key in results[0].scores},
        stages={},
    )


def _plain(service: Service, seed: int) -> Result:
    command = [sys.executable, "-m", service.subject.plain, str(service.data), str(seed)]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Result(seconds=time.perf_counter() - began, scores=json.loads(done.stdout.splitlines()[-1]), stages={})


def _ours(service: Service, seed: int) -> Result:
    run, seconds = service.train(f"training.seed={seed}")
    version: dict[str, Any] = service.client.get(f"/api/models/{MODEL}/versions/{run['version']}")
    if run["decision"]["verdict"] == "promote":
        service.wait_for(run["version"])
    return Result(
        seconds=seconds,
        scores={key: version["metrics"][key] for key in service.subject.metrics},
        stages=version["lineage"]["seconds"],
    )
