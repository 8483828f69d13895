"""What a lost node costs: predictions that fail, epochs that are trained again, time until all is as before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.nodes.cluster import Cluster
from benchmarks.nodes.network import Node
from benchmarks.service import MODEL, save_model
from services.demo.traffic import Exchange, Traffic, failed, latency_ms

CLIENTS, PAUSE = 4, 0.05
"""Clients of the load, and seconds that each rests after an answer: the rest of the machine has to heal meanwhile."""

STEADY_SECONDS = 10.0
AWAY_SECONDS = 15.0
"""How long a lost node, or the head, is away before it is started again."""

WORKER = "RayTrainWorker"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run on one worker node, or on both."""

    workers: int
    nodes: int
    """Nodes on which training processes were seen."""
    f1: float
    version: int


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What the loss of a node cost under load."""

    what: str
    requests: int
    failed: int
    p99_before_ms: float
    p99_ms: float
    healed: float
    """Seconds from the loss until the control plane answered and all replicas served."""


def train(cluster: Cluster, workers: int, seed: int) -> Trained:
    """Train with ``workers`` workers, and see on how many nodes they are."""
    run_id = cluster.start_run(f"training.workers={workers}", f"training.seed={seed}")
    seen: set[str] = set()
    while (run := cluster.run(run_id))["state"] in ("queued", "running"):
        seen |= {node.name for node in cluster.workers if node.processes(WORKER)}
        time.sleep(0.5)
    run = cluster.await_run(run_id)
    version = cluster.client.get(f"/api/models/{run['model']}/versions/{run['version']}")
    return Trained(workers=workers, nodes=len(seen), f1=version["metrics"]["f1"], version=run["version"])


def register(cluster: Cluster) -> int:
    """Bring a model with a random head, which the gate of this benchmark lets pass. Return its version."""
    source = save_model(cluster.home / "model")
    run = cluster.client.post(f"/api/models/{MODEL}/versions", {"source": str(source)})
    return int(cluster.await_run(run["id"])["version"])


def epochs_trained_again(cluster: Cluster) -> tuple[float, float]:
    """Kill the second node while a run trains on both after its first epoch, and start the node again.

    Returns:
        How many epochs were trained again at least (the last report before the kill may be a second old), and how many seconds
        passed from the kill until training reported a step beyond that report.
    """
    run_id = cluster.start_run("training.workers=2")
    before = _await_step(cluster, run_id, lambda progress: progress.get("epoch", 0.0) > 1.5)  # in the second epoch
    victim = cluster.workers[1]
    if not victim.processes(WORKER):
        raise RuntimeError("no training process is on the second node")
    killed = time.monotonic()
    victim.kill()
    time.sleep(AWAY_SECONDS)
    victim.boot()
    cluster.start_worker(victim)
    _await_step(cluster, run_id, lambda progress: "epochs" in progress and progress["step"] < before["step"])
    _await_step(cluster, run_id, lambda progress: progress.get("step", 0) > before["step"])
    beyond = time.monotonic()
    cluster.await_run(run_id)
    [(last, resumed)] = [(a, b) for a, b in pairwise(cluster.reports(run_id)) if b["step"] < a["step"]]
    return (last["step"] - resumed["step"]) / (last["steps"] / last["epochs"]), beyond - killed


def _await_step(cluster: Cluster, run_id: str, reached: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
    """Return the progress of an active run once it is as ``reached`` says."""
    while True:
        run = cluster.run(run_id)
        if run["state"] not in ("queued", "running"):
            raise RuntimeError(f"run {run_id} {run['state']} too early: {run['reason']}")
        progress: Mapping[str, Any] = run["progress"]
        if run["stage"] == "training" and reached(progress):
            return progress
        time.sleep(0.1)


def lose_worker(cluster: Cluster, version: int) -> Loss:
    """Kill the second node under load. It stays away until the first one has its replicas.

    Raises:
        RuntimeError: it has none.
    """
    if not cluster.workers[1].processes(f"ray::ServeReplica:model-{MODEL}"):
        raise RuntimeError("the second node has no replica to lose")

    def heal() -> None:
        cluster.await_serving(version)

    loss = _lose(cluster, "a worker node with replicas", cluster.workers[1], heal)
    cluster.workers[1].boot()
    cluster.start_worker(cluster.workers[1])
    return loss


def lose_head(cluster: Cluster, version: int) -> Loss:
    """Kill the head under load, start it again after a while, and wait until all replicas are known to serve ``version``."""

    def heal() -> None:
        time.sleep(AWAY_SECONDS)
        cluster.head.boot()
        cluster.start_head()
        cluster.await_serving(version)

    return _lose(cluster, f"the head, for {AWAY_SECONDS:.0f} s", cluster.head, heal)


def _lose(cluster: Cluster, what: str, node: Node, heal: Callable[[], None]) -> Loss:
    with Traffic(cluster.url, cluster.texts(), CLIENTS, pause=PAUSE) as traffic:
        time.sleep(STEADY_SECONDS)
        killed = time.perf_counter()
        node.kill()
        heal()
        healed = time.perf_counter()
        time.sleep(STEADY_SECONDS)
    before = [it for it in traffic.exchanges if it.answered < killed]
    during = [it for it in traffic.exchanges if it.answered >= killed and it.sent <= healed]
    return Loss(
        what=what,
        requests=len(traffic.exchanges),
        failed=failed(traffic.exchanges),
        p99_before_ms=_p99(before),
        p99_ms=_p99(during),
        healed=healed - killed,
    )


def _p99(exchanges: list[Exchange]) -> float:
    return latency_ms(exchanges, 0.99)
