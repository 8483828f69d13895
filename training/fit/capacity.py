"""The resources that a run requests from the Ray cluster, and the message it reports while it waits for them.

Knows the training settings and the cluster's nodes; knows nothing of models or data.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # a developer API that no public module has
from ray.util.placement_group import PlacementGroup, placement_group_table

from baton.config.training_settings import TrainingSettings
from baton.errors import TrainingFailed
from baton.wording import counted

PATIENCE_SECONDS = 10.0
"""Seconds that workers may take to start before a run reports what it waits for; also the seconds between two such reports."""

CPUS_PER_PROCESS = 2
"""Default CPUs of each process where a run trains several models side by side. Small models gain little from more."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The resources that a run requests for its workers."""

    workers: int
    """Number of workers, or of processes that train side by side."""
    threads: int
    """CPUs of each worker."""
    use_gpu: bool
    """Whether each worker gets a GPU of its own."""
    labels: Mapping[str, str]
    """Labels that a node must have to run a worker; empty: any node."""

    @property
    def resources(self) -> dict[str, float]:
        """The resources of one worker, by Ray's names."""
        return {"CPU": self.threads, **({"GPU": 1} if self.use_gpu else {})}

    def waiting_message(self) -> str:
        """Return a message for users: which resources the run waits for, and how many of them are free now."""
        each = " and ".join(f"{number} {name}{'s' if number > 1 else ''}" for name, number in self.resources.items())
        where = f" on nodes labelled {', '.join(f'{key}={value}' for key, value in self.labels.items())}" if self.labels else ""
        if self.labels and not _nodes(self.labels):
            state = "the cluster has no such node"
        else:
            total, free = ray.cluster_resources(), ray.available_resources()
            state = ", ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}s" for name in self.resources)
            state += " are free in the whole cluster" if self.labels else " are free"
        return f"waiting for {counted(self.workers, 'worker')} with {each}{where}; {state}"


def capacity_for_workers(training: TrainingSettings) -> Capacity:
    """Return the resources of the workers of one training: their share of the CPUs that no service reserves.

    CPUs that other runs hold count as free. The run waits for them, because training for hours on the few CPUs that happen to
    be left takes longer.

    Raises:
        TrainingFailed: the cluster can never give what ``training`` requests.
    """
    cpus, gpus = int(ray.cluster_resources().get("CPU", 0)), gpus_for(training)
    if training.workers > cpus and not training.nodes:
        raise TrainingFailed(
            f"training.workers is {training.workers}, but the cluster has {counted(cpus, 'CPU')}; allowed: 1 to {cpus}"
        )
    return Capacity(
        workers=training.workers,
        threads=_cpus_per_process(_cpus_by_node(training), training, training.workers),
        use_gpu=training.device == "gpu" or gpus >= training.workers,
        labels=training.nodes,
    )


def capacity_for_models(training: TrainingSettings, models: int, concurrent: int | None = None) -> Capacity:
    """Return the resources of a run that trains ``models`` models side by side, each in one process.

    As many models train at the same time as ``concurrent`` allows; None: as many as fit into the cluster. Each process gets a
    GPU of its own where the run may use GPUs.

    Raises:
        TrainingFailed: ``training`` requests GPUs, and the cluster has too few.
    """
    cpus_by_node, gpus = _cpus_by_node(training), gpus_for(training)
    slots = gpus or max(1, _slots(cpus_by_node, training, CPUS_PER_PROCESS))
    processes = min(models, concurrent or slots, gpus or models)
    return Capacity(
        workers=processes, threads=_cpus_per_process(cpus_by_node, training, processes), use_gpu=gpus > 0, labels={}
    )


def gpus_for(training: TrainingSettings) -> int:
    """Return how many GPUs a run may use: those of all nodes, or of the nodes with the labels ``training.nodes``.

    A run with ``training.nodes`` is never refused here: an autoscaler may start such nodes, with GPUs, once they are requested.

    Raises:
        TrainingFailed: ``training`` requests GPUs, and the cluster has too few.
    """
    gpus = _total(_nodes(training.nodes), "GPU") if training.device != "cpu" else 0
    if training.device == "gpu" and gpus < training.workers and not training.nodes:
        raise TrainingFailed(
            f"training.device is gpu with {counted(training.workers, 'worker')}, but the cluster has {counted(gpus, 'GPU')}; "
            "use fewer workers, or set training.device to auto or cpu"
        )
    return gpus


def _cpus_by_node(training: TrainingSettings) -> list[float]:
    """Return the CPUs of each node that a run may use: those that no service reserves.

    CPUs in placement groups belong to other runs (nothing but training reserves in groups), so they count as usable. Example: a
    node has 8 CPUs, a replica reserves 2, and another run holds a group of 4; Ray reports 2 free CPUs, and the node counts 6.

    Nodes with the labels ``training.nodes`` are reserved for training: all of their CPUs count. If no such node is up yet, the
    size of the node that will start is unknown. It is taken to have ``training.cpus`` CPUs, or else one for each worker.
    """
    if training.nodes:
        return [node["Resources"].get("CPU", 0) for node in _nodes(training.nodes)] or [training.cpus or training.workers]
    usable: dict[str, float] = defaultdict(float)
    for node, resources in available_resources_per_node().items():
        usable[node] += resources.get("CPU", 0)
    for group in placement_group_table().values():
        for key, bundle in group["bundles"].items() if group["state"] == "CREATED" else ():
            usable[group["bundles_to_node_id"][key]] += bundle.get("CPU", 0)
    return list(usable.values())


def _cpus_per_process(cpus_by_node: Sequence[float], training: TrainingSettings, processes: int) -> int:
    """Return the maximum number of CPUs that each of ``processes`` can have at the same time; 1 if there are too few.

    A process runs on one node. Example: nodes with 2 and 4 usable CPUs and 2 processes. 6 CPUs / 2 processes = 3, but only one
    process with 3 CPUs fits (on the second node), so each gets 2.
    """
    available = min(sum(cpus_by_node), training.cpus or sum(cpus_by_node))
    upper_bound = int(available) // processes
    return next((cpus for cpus in range(upper_bound, 1, -1) if _slots(cpus_by_node, training, cpus) >= processes), 1)


def _slots(cpus_by_node: Sequence[float], training: TrainingSettings, cpus: int) -> int:
    """Return how many processes with ``cpus`` CPUs each fit, within ``training.cpus``.

    Example: nodes with 3 and 5 usable CPUs have 1 + 2 = 3 slots of 2 CPUs; ``training.cpus: 4`` limits them to 2.
    """
    slots = sum(int(available) // cpus for available in cpus_by_node)
    return min(slots, training.cpus // cpus) if training.cpus else slots


def _nodes(labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """Return the live nodes that have all of ``labels``."""
    alive = (node for node in ray.nodes() if node["Alive"])
    return [node for node in alive if all((node.get("Labels") or {}).get(key) == value for key, value in labels.items())]


def _total(nodes: Iterable[Mapping[str, Any]], resource: str) -> int:
    return int(sum(node["Resources"].get(resource, 0) for node in nodes))


def is_placed(group: PlacementGroup) -> bool:
    """Return whether the cluster has reserved the resources of ``group``."""
    state: str = placement_group_table(group)["state"]
    return state == "CREATED"


@contextmanager
def report_waiting(capacity: Capacity, started: Callable[[], bool], report: Callable[[str], None]) -> Iterator[None]:
    """While the block waits for its workers, call ``report`` with the waiting message every `PATIENCE_SECONDS`.

    The reports end once ``started()`` is true, or when the block ends. ``started`` and ``report`` run on a thread of their own.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(PATIENCE_SECONDS) and not started():
            report(capacity.waiting_message())

    watcher = threading.Thread(target=watch, daemon=True, name="capacity")
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
