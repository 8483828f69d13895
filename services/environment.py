"""Environment variables that Baton sets or reads, for nodes of every kind of cluster: of a laptop, or of KubeRay.

Reads no environment itself: entry points pass theirs in.
"""

from __future__ import annotations

from collections.abc import Mapping

from baton.config.file import BatonConfig

STORE_VARIABLES = {"database": "BATON_DATABASE", "storage": "BATON_STORAGE"}
"""Keys of `baton.yaml` that the applications can also read from these variables.

The database's URL may hold a password, and arguments of Serve applications and of jobs appear in Ray's state and logs.
"""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine that no proxy may be asked for."""

NODE_VARIABLES = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
    "RAY_SERVE_HAPROXY_MAXCONN": "6000",
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_JOB_STOP_WAIT_TIME_S": "5",
    "RAY_DEDUP_LOGS": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment of every node before Ray starts."""


def loopback_environment(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return ``NO_PROXY`` of ``environ``, in both spellings, with loopback added: Ray's processes call each other over HTTP.

    ``*`` excepts every host, and means that only if it stands alone.
    """
    listed = [name.strip() for name in (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",") if name.strip()]
    without = "*" if "*" in listed else ",".join([*listed, *(name for name in LOOPBACK if name not in listed)])
    return {"NO_PROXY": without, "no_proxy": without}


def job_environment(node: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables that jobs get in addition to `NODE_VARIABLES`, where ``node`` is the environment of the node.

    OpenMP threads sleep while they wait for each other, unless ``node`` sets another policy. By default they spin, and take
    processor time that serving may need (measured by `benchmarks/waiting.py`).
    """
    return {"OMP_WAIT_POLICY": node.get("OMP_WAIT_POLICY", "PASSIVE")}


def store_environment(config: BatonConfig) -> Mapping[str, str]:
    """Return the variables of `STORE_VARIABLES` with their values in ``config``."""
    return {variable: getattr(config, key) for key, variable in STORE_VARIABLES.items()}
