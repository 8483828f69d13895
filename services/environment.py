"""Environment variables that every node of a cluster needs, a laptop's or KubeRay's, before Ray starts."""

from __future__ import annotations

from collections.abc import Mapping

from baton.config.file import BatonConfig

STORES = {"database": "BATON_DATABASE", "storage": "BATON_STORAGE"}
"""Keys of a configuration that the applications find in these variables: the database's URL may hold a password, and what Serve
and jobs are told stands in Ray's state and logs.
"""

EVERYWHERE = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_JOB_STOP_WAIT_TIME_S": "5",
    "RAY_DEDUP_LOGS": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What every node of any cluster needs in its environment before Ray starts, a laptop's or KubeRay's."""


def of_jobs(node: Mapping[str, str]) -> Mapping[str, str]:
    """What jobs get besides: how their threads wait for each other, unless the environment of the ``node`` says so.

    Asleep: threads that spin, their default, take processors that serving may need (`benchmarks/waiting.py`).
    """
    return {"OMP_WAIT_POLICY": node.get("OMP_WAIT_POLICY", "PASSIVE")}


def stores(config: BatonConfig) -> Mapping[str, str]:
    """`STORES` as ``config`` has them."""
    return {variable: getattr(config, key) for key, variable in STORES.items()}
