"""Compare wall time and F1 of a Baton run with the plain single-process `Trainer`, alternating.

In each round both use the same seed: the number of the round, from 0.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from benchmarks.service import MODEL, Service, holdout_of, read_rows

ANSWER_SECONDS = 1800.0
"""How long the first answer is waited for."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One training, by Baton or by the plain script."""

    seconds: float
    """Wall time."""
    scores: Mapping[str, float]
    """Scores on the test file, by metric."""
    stages: Mapping[str, float]
    """Seconds by stage; empty for the plain script."""
    recipe: str = ""
    """What the run says that it chose."""
    first_answer: float | None = None
    """Seconds until the model answered; None if it did before."""


def measure(service: Service, rounds: int = 1) -> str:
    """Measure, and return a section of the results. The service runs, but is idle during the measurement."""
    plain_results, baton_results = [], []
    for seed in range(rounds):
        plain_results.append(_train_plain(service, seed))
        baton_results.append(_train_baton(service, seed))
    metrics = service.subject.metrics
    heads = ["seed", "plain `Trainer`", *metrics.values(), "Baton run", *metrics.values(), "wall time ratio"]
    rows = [
        [str(number), *_cells(plain, metrics), *_cells(baton, metrics), f"{baton.seconds / plain.seconds:.2f}"]
        for number, (plain, baton) in enumerate(zip(plain_results, baton_results, strict=True))
    ]
    if rounds > 1:
        plain, baton = _mean(plain_results), _mean(baton_results)
        rows.append(["mean", *_cells(plain, metrics), *_cells(baton, metrics), f"{baton.seconds / plain.seconds:.2f}"])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in baton_results[-1].stages.items())
    recipe = {key: value for key, value in asdict(service.subject.recipe).items() if key != "seed" and value is not None}
    settings = ", ".join(f"{key} {value}" for key, value in recipe.items())
    who = "Plain" if service.auto else "Both"
    auto = f" Baton, with nothing set under `training:`: {baton_results[-1].recipe}." if service.auto else ""
    first = baton_results[0].first_answer
    answered = (
        "" if first is None or not service.auto else f"The model answered {first:.0f} s after its first run was asked for.\n"
    )
    return (
        f"## Training{', nothing set' if service.auto else ''}: {service.task}\n\n"
        f"{who}: {settings}.{auto}\n"
        "Both: bf16 autocast, all cores, beside the idle service. Plain: a process from start to end, training\n"
        "and scoring the holdout. Baton: from asking for the run to its decision (job start, validation and a checkpoint each\n"
        f"epoch, scoring, publishing, gate).\n{'' if service.auto else service.subject.note}\n\n"
        f"{table}\n\n{answered}Stages of the last Baton run: {stages}.\n"
    )


def _cells(result: Result, metrics: Mapping[str, str]) -> list[str]:
    return [f"{result.seconds:.0f} s", *(f"{result.scores[key]:.4f}" for key in metrics)]


def _mean(results: Sequence[Result]) -> Result:
    return Result(
        seconds=statistics.mean(result.seconds for result in results),
        scores={key: statistics.mean(result.scores[key] for result in results) for key in results[0].scores},
        stages={},
    )


def _train_plain(service: Service, seed: int) -> Result:
    command = [sys.executable, "-m", service.subject.plain, str(service.data), str(seed)]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Result(seconds=time.perf_counter() - began, scores=json.loads(done.stdout.splitlines()[-1]), stages={})


def _train_baton(service: Service, seed: int) -> Result:
    with ThreadPoolExecutor(1) as threads:
        answered = threads.submit(_first_answer, service) if seed == 0 else None
        run, seconds = service.train(f"training.seed={seed}")
        if run["decision"]["verdict"] == "promote":
            service.wait_for(run["version"])
        first_answer = answered.result() if answered else None
    version: dict[str, Any] = service.client.get(f"/api/models/{MODEL}/versions/{run['version']}")
    return Result(
        seconds=seconds,
        scores={key: version["metrics"][key] for key in service.subject.metrics},
        stages=version["lineage"]["seconds"],
        recipe=version["lineage"]["recipe"],
        first_answer=first_answer,
    )


def _first_answer(service: Service) -> float:
    """Return the seconds until the service answers its first prediction."""
    began, deadline = time.perf_counter(), time.perf_counter() + ANSWER_SECONDS
    row = read_rows(holdout_of(service.data))[0]
    inputs = row.get("text") or " ".join(row.get("tokens", ())) or {key: row[key] for key in ("question", "context")}
    while httpx.post(service.url, json={"inputs": inputs}, timeout=60).status_code != httpx.codes.OK:
        if time.perf_counter() > deadline:
            raise RuntimeError(f"no answer after {ANSWER_SECONDS:.0f} s: the first run failed, or its version was refused")
        time.sleep(0.2)
    return time.perf_counter() - began
