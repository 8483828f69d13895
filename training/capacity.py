"""What a run may take of the cluster, and what it waits for while it cannot start. Knows runs, not what they train."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from baton.config import TrainingSettings
from baton.errors import TrainingFailed

PATIENCE_SECONDS = 10.0
"""How long workers may take to start before a run says what it waits for, and how often it says so again."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What each of a run's workers asks for. ``labels`` select the nodes that may run it."""

    workers: int
    threads: int
    use_gpu: bool
    labels: Mapping[str, str]

    @property
    def resources(self) -> dict[str, float]:
        """Of one worker, as Ray counts them."""
        return {"CPU": self.threads, **({"GPU": 1} if self.use_gpu else {})}

    def sentence(self) -> str:
        """What has to be free before the run can start, and what is."""
        each = " and ".join(f"{number} {name}{'s' if number > 1 else ''}" for name, number in self.resources.items())
        where = f" on nodes labelled {', '.join(f'{key}={value}' for key, value in self.labels.items())}" if self.labels else ""
        nodes = [node for node in ray.nodes() if node["Alive"] and self._fits(node)]
        if self.labels and not nodes:
            free = "the cluster has no such node"
        else:
            total, left = ray.cluster_resources(), ray.available_resources()
            free = ", ".join(f"{left.get(name, 0):g} of {total.get(name, 0):g} {name} free" for name in self.resources)
        return f"waits for {self.workers} worker(s) with {each}{where}; {free}"

    def _fits(self, node: Mapping[str, Mapping[str, str]]) -> bool:
        labels = node.get("Labels") or {}
        return all(labels.get(key) == value for key, value in self.labels.items())


def capacity_of(training: TrainingSettings, *, reserved: float, others: int) -> Capacity:
    """What a run asks for: its share of the CPUs that nobody has reserved, or of those that no *service* has while ``others``
    runs are active. Those it then waits for, rather than to train for hours on what they happen to leave.

    ``reserved``: CPUs that models in service reserve.

    Raises:
        TrainingFailed: the cluster can never give what ``training`` asks for.
    """
    total = ray.cluster_resources()
    gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 0))
    use_gpu = training.device == "gpu" or (training.device == "auto" and gpus >= training.workers)
    if training.device == "gpu" and gpus < training.workers and not training.nodes:  # labelled nodes may come when asked for
        raise TrainingFailed(f"training.device is gpu with {training.workers} worker(s), but the cluster has {gpus} GPU(s)")
    if training.workers > cpus and not training.nodes:
        raise TrainingFailed(f"training.workers is {training.workers}, but the cluster has {cpus} CPU(s); allowed: 1 to {cpus}")
    free = cpus - reserved if others else ray.available_resources().get("CPU", 0)
    largest = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    share = min(int(min(free, training.cpus or free)) // training.workers, largest)
    return Capacity(workers=training.workers, threads=max(1, share), use_gpu=use_gpu, labels=training.nodes)


@contextmanager
def watched(capacity: Capacity, started: Callable[[], bool], say: Say) -> Iterator[None]:
    """While the block waits for its workers, ``say`` what they wait for, until one has ``started``."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(PATIENCE_SECONDS) and not started():
            say(capacity.sentence())

    watcher = threading.Thread(target=watch, daemon=True, name="capacity")
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
