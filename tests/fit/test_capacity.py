"""The resources that a run requests, on clusters of different shapes, which are described as Ray would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from baton.config.training_settings import TrainingSettings
from baton.errors import TrainingFailed
from training.fit import capacity
from training.fit.capacity import capacity_for_models, capacity_for_workers, gpus_for

Node = tuple[int, int, Mapping[str, str]]
"""CPUs, GPUs, labels."""

HEAD: Node = (64, 0, {"pool": "head"})
SERVING: Node = (16, 2, {"pool": "serving"})
TRAINING: Node = (8, 1, {"pool": "training"})
BOUND = {"nodes": {"pool": "training"}}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Returns a function that makes Ray report the given nodes.

    ``free``: the CPUs of each node that are not reserved. ``held``: CPUs of the first node that runs hold in groups.
    """

    def describe(*nodes: Node, free: Sequence[float] | None = None, held: Sequence[float] = ()) -> None:
        def resources(node: Node) -> dict[str, float]:
            return {"CPU": float(node[0]), **({"GPU": float(node[1])} if node[1] else {})}

        alive = [{"Alive": True, "Resources": resources(node), "Labels": node[2]} for node in nodes]
        gone = {"Alive": False, "Resources": {"CPU": 512.0, "GPU": 64.0}, "Labels": {"pool": "training"}}
        total: dict[str, float] = {}
        for node in nodes:
            for name, value in resources(node).items():
                total[name] = total.get(name, 0.0) + value
        places = {"bundles_to_node_id": {0: "node 0", 1: "node 0"}}
        groups = {
            str(number): {"state": "CREATED", "bundles": {0: {"CPU": cpus / 2}, 1: {"CPU": cpus / 2}}, **places}
            for number, cpus in enumerate(held)
        } | {"pending": {"state": "PENDING", "bundles": {0: {"CPU": 100.0}}, **places}}
        left = [float(node[0]) for node in nodes] if free is None else list(free)
        monkeypatch.setattr(capacity.ray, "nodes", lambda: [*alive, gone])
        monkeypatch.setattr(capacity.ray, "cluster_resources", lambda: total)
        monkeypatch.setattr(capacity.ray, "available_resources", lambda: {**total, "CPU": sum(left)})
        each = {f"node {number}": {"CPU": cpus} if cpus else {} for number, cpus in enumerate(left)}
        monkeypatch.setattr(capacity, "available_resources_per_node", lambda: each)
        monkeypatch.setattr(capacity, "placement_group_table", lambda: groups)

    return describe


def training(**changes: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({"batch_size": 32, **changes})


def test_a_run_takes_what_no_service_has_reserved(cluster):
    cluster((8, 0, {}), free=[6])
    assert capacity_for_workers(training()).resources == {"CPU": 6}
    assert capacity_for_workers(training(cpus=4)).resources == {"CPU": 4}
    assert capacity_for_workers(training(workers=2)).resources == {"CPU": 3}


def test_what_other_runs_hold_is_waited_for(cluster):
    cluster((8, 0, {}), free=[0], held=[4, 2])
    assert capacity_for_workers(training()).resources == {"CPU": 6}
    assert capacity_for_models(training(), 3).workers == 3


def test_no_worker_asks_for_more_than_a_node_has(cluster):
    cluster((4, 0, {}), (4, 0, {}))
    assert capacity_for_workers(training()).resources == {"CPU": 4}
    assert capacity_for_workers(training(workers=2)).resources == {"CPU": 4}


def test_what_services_hold_of_a_node_makes_no_worker_wait_for_ever(cluster):
    cluster((4, 0, {}), (4, 0, {}), free=[3, 3])
    assert capacity_for_workers(training()).resources == {"CPU": 3}
    cluster((4, 0, {}), (4, 0, {}), free=[2, 4])
    assert capacity_for_workers(training(workers=2)).resources == {"CPU": 2}  # 3 each fit nowhere
    asked = capacity_for_models(training(), 5)
    assert (asked.workers, asked.threads) == (3, 2)


def test_models_side_by_side_use_the_cpus_of_all_nodes(cluster):
    cluster(*[(4, 0, {})] * 4)
    asked = capacity_for_models(training(), 20)
    assert (asked.workers, asked.threads) == (8, 2)
    asked = capacity_for_models(training(cpus=5), 20)
    assert (asked.workers, asked.threads) == (2, 2)


def test_a_run_that_is_bound_to_nodes_asks_for_what_those_have(cluster):
    cluster(HEAD, SERVING, TRAINING)
    assert capacity_for_workers(training(**BOUND, device="cpu")).resources == {"CPU": 8}
    assert capacity_for_workers(training(**BOUND, cpus=4, device="cpu")).resources == {"CPU": 4}
    assert capacity_for_workers(training(**BOUND)).resources == {"CPU": 8, "GPU": 1}


def test_gpus_elsewhere_are_not_asked_for_on_nodes_without(cluster):
    cluster(HEAD, SERVING, (8, 0, {"pool": "training"}))
    assert gpus_for(training(**BOUND)) == 0
    assert capacity_for_workers(training(**BOUND)).resources == {"CPU": 8}
    assert gpus_for(training()) == 2


def test_of_nodes_that_are_not_up_yet_a_worker_asks_for_one_cpu_or_what_the_settings_say(cluster):
    cluster(HEAD, SERVING)
    assert capacity_for_workers(training(**BOUND, workers=2)).resources == {"CPU": 1}
    assert capacity_for_workers(training(**BOUND, workers=2, cpus=8)).resources == {"CPU": 4}
    assert capacity_for_workers(training(**BOUND, device="gpu", cpus=4)).resources == {"CPU": 4, "GPU": 1}


@pytest.mark.parametrize(
    ("cpus", "most", "wanted", "expected"),
    [
        (8, 10, None, (4, 2)),
        (8, 3, None, (3, 2)),
        (8, 1, None, (1, 8)),
        (8, 10, 2, (2, 4)),
        (1, 5, None, (1, 1)),
        (2, 5, 4, (4, 1)),
    ],
)
def test_models_side_by_side_get_two_cpus_each_unless_told_otherwise(cluster, cpus, most, wanted, expected):
    cluster((cpus, 0, {}))
    asked = capacity_for_models(training(), most, wanted)
    assert (asked.workers, asked.threads, asked.use_gpu) == (*expected, False)


@pytest.mark.parametrize(("most", "wanted", "workers"), [(5, None, 2), (1, None, 1), (5, 4, 2), (5, 1, 1)])
def test_models_side_by_side_get_a_gpu_each(cluster, most, wanted, workers):
    cluster((16, 2, {}))
    asked = capacity_for_models(training(), most, wanted)
    assert (asked.workers, asked.resources) == (workers, {"CPU": 16 // workers, "GPU": 1})
    assert not capacity_for_models(training(device="cpu"), most).use_gpu


def test_what_the_cluster_can_never_give_is_refused(cluster):
    cluster((2, 0, {}))
    with pytest.raises(TrainingFailed, match=r"workers is 4, but the cluster has 2 CPUs; allowed: 1 to 2"):
        capacity_for_workers(training(workers=4))
    with pytest.raises(TrainingFailed, match=r"device is gpu with 1 worker, but the cluster has 0 GPUs"):
        capacity_for_workers(training(device="gpu"))


def test_the_sentence_names_the_label_that_no_node_has(cluster):
    cluster(HEAD)
    sentence = capacity_for_workers(training(**BOUND, cpus=2)).waiting_message()
    assert sentence == "waiting for 1 worker with 2 CPUs on nodes labelled pool=training; the cluster has no such node"


def test_the_sentence_tells_what_is_free(cluster):
    cluster((8, 0, {}), free=[1], held=[6])
    assert capacity_for_workers(training()).waiting_message() == "waiting for 1 worker with 7 CPUs; 1 of 8 CPUs are free"
