"""Training: wall time and F1 of a Baton run against the plain single-process `Trainer`, one after the other, alternating."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from benchmarks.service import TRAINING, Service


def measure(service: Service, rounds: int = 1) -> str:
    """One section of the results. The service is up but idle meanwhile."""
    plain, ours = [], []
    for _ in range(rounds):
        plain.append(_plain(service))
        run, seconds = service.train()
        stages = service.client.get(f"/api/models/intents/versions/{run['version']}")["lineage"]["seconds"]
        ours.append({"seconds": seconds, "f1": run["decision"]["numbers"]["f1"], "stages": stages})
        if run["decision"]["verdict"] == "promote":
            service.wait_for(run["version"])
    rows = [
        f"| {number} | {theirs['seconds']:.0f} s | {theirs['f1']:.4f} | {mine['seconds']:.0f} s | {mine['f1']:.4f} | "
        f"{mine['seconds'] / theirs['seconds']:.2f} |"
        for number, (theirs, mine) in enumerate(zip(plain, ours, strict=True), start=1)
    ]
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in ours[-1]["stages"].items())
    settings = ", ".join(f"{key} {value}" for key, value in TRAINING.items())
    return (
        "## Training\n\n"
        f"{settings}; both: bf16 autocast, all cores, beside the idle service. Plain: a process from start to end, training\n"
        "and scoring the holdout. Baton: from asking for the run to its decision (job start, validation and a checkpoint each\n"
        "epoch, scoring, publishing, gate).\n\n"
        "| round | plain `Trainer` | macro-F1 | Baton run | macro-F1 | wall time ratio |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nStages of the last Baton run: {stages}.\n"
    )


def _plain(service: Service) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.plain_trainer", str(service.data)]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"f1": json.loads(done.stdout.splitlines()[-1])["f1"], "seconds": time.perf_counter() - began}
