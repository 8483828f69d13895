"""Run a service on several nodes (network namespaces), lose one after the other, and write the results to RESULTS.md.

Needs root, iproute2 and redis-server, which are Debian packages.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.nodes import measures
from benchmarks.nodes.cluster import EPOCHS, REPLICAS, Cluster, cluster
from benchmarks.nodes.network import CPUS

SEEDS = (0, 1, 2)
"""Of the runs whose F1 is compared: the first is the default one."""


def main() -> None:
    """Parse the command line, run the benchmark, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nodes", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.jsonl and test.jsonl: text and label")
    parser.add_argument("--losses", action="store_true", help="train nothing: only lose nodes that serve")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="baton-nodes-", dir="/var/tmp") as home,  # each node has a /tmp of its own
        cluster(Path(home), arguments.data.resolve()) as made,
    ):
        text = _lose(made) if arguments.losses else _measure(made)
    write(arguments.out, text, head_of("benchmarks.nodes", f"--data …/{arguments.data.resolve().name}"))
    print(f"written to {arguments.out}")


def _measure(made: Cluster) -> str:
    one = [measures.train(made, 1, SEEDS[0])]
    spread = " + ".join(map(str, made.await_serving(one[0].version)))
    reads = made.weights_read(one[0].version)
    one += [measures.train(made, 1, seed) for seed in SEEDS[1:]]
    both = [measures.train(made, 2, seed) for seed in SEEDS]
    print(f"replicas {spread}; {reads} reads; {one}; {both}", flush=True)
    version = int(made.model()["champion"])
    made.await_serving(version)
    losses = [measures.lose_worker(made, version)]  # first: a lost node gets no replicas back
    again, seconds = measures.epochs_trained_again(made)
    version = int(made.model()["champion"])
    made.await_serving(version)
    losses.append(measures.lose_head(made, version))
    print(f"{losses}; {again:.2f} epochs again; caught up after {seconds:.0f} s", flush=True)
    made.await_serving(version)
    return (
        f"## Several nodes\n\n{NODES}"
        f"- {REPLICAS} replicas: {spread} on the two nodes. The first version's weights were read {reads} times.\n"
        f"- Training for {EPOCHS} epochs, with {len(SEEDS)} seeds: F1 {_f1(one)} with 1 worker, {_f1(both)}\n"
        f"  with {both[0].workers} workers on {min(run.nodes for run in both)} nodes (Welch's t-test: "
        f"p = {_chance(one, both):.2f}).\n"
        f"- A training node killed in the second epoch, and back after {measures.AWAY_SECONDS:.0f} s: {again:.2f} epochs were "
        f"trained again; training was\n  where it had been {seconds:.0f} s after the kill.\n\n{_table(losses)}"
    )


def _chance(one: Sequence[measures.Trained], both: Sequence[measures.Trained]) -> float:
    """Return how probable a difference of the means like this one is if there is none (two-sided)."""
    scores = ([run.f1 for run in runs] for runs in (one, both))
    return float(stats.ttest_ind(*scores, equal_var=False).pvalue)


def _f1(runs: Sequence[measures.Trained]) -> str:
    """Return mean and standard deviation of the F1, and each of them."""
    scores = [run.f1 for run in runs]
    each = ", ".join(f"{score:.4f}" for score in scores)
    return f"{statistics.mean(scores):.4f} ± {statistics.stdev(scores):.4f} ({each})"


def _lose(made: Cluster) -> str:
    """Lose a worker node and the head, which serve a model that is not trained."""
    version = measures.register(made)
    spread = " + ".join(map(str, made.await_serving(version)))
    losses = [measures.lose_worker(made, version), measures.lose_head(made, version)]
    return f"## Lost nodes\n\n{NODES}{REPLICAS} replicas, {spread} on the two nodes.\n\n{_table(losses)}"


NODES = (
    f"A head and two worker nodes that declare {CPUS} CPUs each: namespaces of one machine, each with a Ray of its own.\n"
    "The head's state is in Redis, the versions are in an S3 store. The host's name is a loopback address on all.\n\n"
)


def _table(losses: Sequence[measures.Loss]) -> str:
    rows = "\n".join(
        f"| {it.what} | {it.requests:,} | {it.failed} | {it.p99_before_ms:.0f} → {it.p99_ms:.0f} ms | {it.healed:.1f} s |"
        for it in losses
    )
    return (
        f"Killed under load ({measures.CLIENTS} clients of the node that stays, with {measures.PAUSE * 1000:.0f} ms of pause "
        "after each answer):\n\n"
        "| killed (SIGKILL to every process) | requests | failed | p99 before → until healed | healed after |\n"
        "| --- | --- | --- | --- | --- |\n"
        f"{rows}\n\n"
        "Healed: the control plane answers, and all replicas serve.\n"
    )


if __name__ == "__main__":
    main()
