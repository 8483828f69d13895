"""What a run may take of the cluster, and what it waits for while it cannot start. Knows runs, not what they train."""

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

PATIENCE_SECONDS = 10.0
"""How long workers may take to start before a run says what it waits for, and how often it says so again."""

CPUS_PER_PROCESS = 2
"""By default, where a run trains several models side by side: small ones gain little from more."""

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
        if self.labels and not _nodes(self.labels):
            free = "the cluster has no such node"
        else:
            total, left = ray.cluster_resources(), ray.available_resources()
            free = ", ".join(f"{left.get(name, 0):g} of {total.get(name, 0):g} {name} free" for name in self.resources)
            free = f"in the whole cluster {free}" if self.labels else free
        return f"waits for {self.workers} worker(s) with {each}{where}; {free}"


def capacity_of(training: TrainingSettings) -> Capacity:
    """What the workers of one training ask for: their share of the CPUs that no service reserves.

    What other runs hold counts as free: the run waits for it, rather than to train for hours on what they happen to leave.

    Raises:
        TrainingFailed: the cluster can never give what ``training`` asks for.
    """
    cpus, gpus = int(ray.cluster_resources().get("CPU", 0)), gpus_for(training)
    if training.workers > cpus and not training.nodes:
        raise TrainingFailed(f"training.workers is {training.workers}, but the cluster has {cpus} CPU(s); allowed: 1 to {cpus}")
    return Capacity(
        workers=training.workers,
        threads=_share(_rooms(training), training, training.workers),
        use_gpu=training.device == "gpu" or gpus >= training.workers,
        labels=training.nodes,
    )


def side_by_side(training: TrainingSettings, most: int, wanted: int | None = None) -> Capacity:
    """What a run asks for that trains ``most`` models, as many at once as are ``wanted``, or as there is room for. Each has a
    process, and a GPU of its own where the run may use GPUs.

    Raises:
        TrainingFailed: it wants GPUs, and the cluster has none.
    """
    rooms, gpus = _rooms(training), gpus_for(training)
    room = gpus or max(1, _fitting(rooms, training, CPUS_PER_PROCESS))
    processes = min(most, wanted or room, gpus or most)
    return Capacity(workers=processes, threads=_share(rooms, training, processes), use_gpu=gpus > 0, labels={})


def gpus_for(training: TrainingSettings) -> int:
    """How many GPUs a run may use; nodes that it is bound to may come, with theirs, when they are asked for.

    Raises:
        TrainingFailed: it wants GPUs, and the cluster has too few.
    """
    gpus = _total(_nodes(training.nodes), "GPU") if training.device != "cpu" else 0
    if training.device == "gpu" and gpus < training.workers and not training.nodes:
        raise TrainingFailed(f"training.device is gpu with {training.workers} worker(s), but the cluster has {gpus} GPU(s)")
    return gpus


def _rooms(training: TrainingSettings) -> list[float]:
    """CPUs of each node that a run may share out: all that services leave there.

    Nodes that a run is bound to are there for training: all of theirs. Where none of them is up yet, whatever node comes has
    one for each worker, and `training.cpus` says where it has more.
    """
    if training.nodes:
        return [node["Resources"].get("CPU", 0) for node in _nodes(training.nodes)] or [training.cpus or training.workers]
    rooms: dict[str, float] = defaultdict(float)
    for node, resources in available_resources_per_node().items():
        rooms[node] += resources.get("CPU", 0)
    for group in placement_group_table().values():  # only training reserves in groups
        for key, bundle in group["bundles"].items() if group["state"] == "CREATED" else ():
            rooms[group["bundles_to_node_id"][key]] += bundle.get("CPU", 0)
    return list(rooms.values())


def _share(rooms: Sequence[float], training: TrainingSettings, processes: int) -> int:
    """The most CPUs that each of so many processes can have at the same time; one where there are too few."""
    most = int(min(sum(rooms), training.cpus or sum(rooms))) // processes
    return next((cpus for cpus in range(most, 1, -1) if _fitting(rooms, training, cpus) >= processes), 1)


def _fitting(rooms: Sequence[float], training: TrainingSettings, cpus: int) -> int:
    """How many processes with ``cpus`` each have a place, within ``training.cpus``."""
    places = sum(int(room) // cpus for room in rooms)
    return min(places, training.cpus // cpus) if training.cpus else places


def _nodes(labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """The live nodes that have all of ``labels``."""
    alive = (node for node in ray.nodes() if node["Alive"])
    return [node for node in alive if all((node.get("Labels") or {}).get(key) == value for key, value in labels.items())]


def _total(nodes: Iterable[Mapping[str, Any]], resource: str) -> int:
    return int(sum(node["Resources"].get(resource, 0) for node in nodes))


def is_there(place: PlacementGroup) -> bool:
    """Whether the cluster has given a place, or is still asked for it."""
    state: str = placement_group_table(place)["state"]
    return state == "CREATED"


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
