"""Twenty minutes of everything at once: load, corrections, a swap a minute, and a replica killed a minute."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.rollouts import versions
from benchmarks.rollouts.callers import Answer, Callers
from benchmarks.rollouts.canaries import register
from benchmarks.service import MODEL, Service, holdout_of, read_rows
from services.host import processes
from services.host.cluster import temporary_of
from services.host.instance import Instance, StateDirectory

CALLERS = 4
CORRECTED = 0.05
"""Share of the answers that are corrected."""

MINUTES = 20
SAMPLE_SECONDS = 10.0
REPLICA = f"ServeReplica:model-{MODEL}"
GROUPS = {"replicas": REPLICA, "control plane": "ServeReplica:control", "HAProxy": "haproxy -"}
"""Parts of the service whose memory and file descriptors are counted, by a part of their command lines. The rest is Ray."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Memory and file descriptors of the service's processes."""

    minutes: float
    """Since the load began."""
    memory_mb: dict[str, float]
    """Resident memory by group: the sum over its processes, shared pages counted in each."""
    files: dict[str, int]
    """Open file descriptors by group."""


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What twenty minutes left."""

    answers: Sequence[Answer]
    swaps: int
    kills: int
    corrections: int
    refused: int
    """Corrections that were not accepted."""
    samples: Sequence[Sample]
    left: int
    """How many more entries than before the directory for temporary files has: what killed replicas left behind."""


def measure(service: Service, home: Path) -> Soak:
    """Run it all. Nothing is swapped or killed in the last minute, so that the end shows what stays."""
    first = service.trained()
    good = Path(service.client.get(f"/api/models/{MODEL}/versions/{first}")["uri"].removeprefix("file://"))
    other = register(service, versions.wrong(good, home / "other"))
    instance = StateDirectory(service.home / ".baton").read()
    assert instance is not None
    samples, swaps, kills = [], 0, 0
    temporary = temporary_of(Path(instance.directory))
    before = len(list(temporary.iterdir()))
    with Callers(service.client.url, read_rows(holdout_of(service.data)), CALLERS, corrected=CORRECTED) as callers:
        began = time.monotonic()
        for tick in range(int(MINUTES * 60 / SAMPLE_SECONDS)):
            time.sleep(max(0.0, began + tick * SAMPLE_SECONDS - time.monotonic()))
            samples.append(_sample(instance, (time.monotonic() - began) / 60))
            second = tick * SAMPLE_SECONDS % 60
            if 60 <= tick * SAMPLE_SECONDS < (MINUTES - 1) * 60:
                if second == 0:
                    body = {"version": (other, first)[swaps % 2], "force": True, "reason": "a soak test"}
                    service.client.post(f"/api/models/{MODEL}/promotions", body)
                    swaps += 1
                elif second == 30:
                    kills += _kill_one(instance, kills)
    return Soak(
        answers=callers.answers,
        swaps=swaps,
        kills=kills,
        corrections=callers.corrections,
        refused=callers.refused,
        samples=samples,
        left=len(list(temporary.iterdir())) - before,
    )


def _sample(instance: Instance, minutes: float) -> Sample:
    memory, files = dict.fromkeys([*GROUPS, "Ray"], 0.0), dict.fromkeys([*GROUPS, "Ray"], 0)
    for process in processes.find(instance.id):
        with contextlib.suppress(psutil.Error):  # ended between our two looks
            line = " ".join(process.cmdline())
            group = next((name for name, title in GROUPS.items() if title in line), "Ray")
            memory[group] += process.memory_info().rss / 2**20
            files[group] += process.num_fds()
    return Sample(minutes=minutes, memory_mb=memory, files=files)


def _kill_one(instance: Instance, number: int) -> bool:
    """Kill one of the replicas, and return whether there was one."""
    replicas = []
    for process in processes.find(instance.id):
        with contextlib.suppress(psutil.Error):
            if REPLICA in " ".join(process.cmdline()):
                replicas.append(process)
    if replicas:
        replicas[number % len(replicas)].kill()
    return bool(replicas)


def draw(result: Soak, path: Path) -> None:
    """Draw memory and file descriptors over time to ``path``."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "baton"  # the same result gives the same file
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 5.5), layout="constrained", sharex=True)
    minutes = [sample.minutes for sample in result.samples]
    for group in result.samples[0].memory_mb:
        above.plot(minutes, [sample.memory_mb[group] for sample in result.samples], label=group)
        below.plot(minutes, [sample.files[group] for sample in result.samples], label=group)
    above.set(ylabel="resident memory, MB", ylim=(0, None), title="A swap and a killed replica a minute, under load")
    below.set(xlabel="minutes", ylabel="open file descriptors", ylim=(0, None))
    above.legend(loc="upper left", ncols=4)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
