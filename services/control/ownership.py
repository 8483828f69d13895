"""Which work is this cluster's, when several share one database: two machines, or both clusters of an upgrade on Kubernetes.

A run belongs to the cluster that queued it. Roll-outs and automatic retraining of a model belong to the cluster that has the
model's lease. The owner is the Ray cluster, not the process: a control plane that is killed comes back as the same owner.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from functools import cached_property

from baton.store.registry import Registry
from services.names import model_lease

logger = logging.getLogger("ray.serve")

LEASE_SECONDS = 15.0
"""Length of a lease: after this long without a control plane, the work on its models goes to another cluster. An owner that was
merely slow does no harm when it goes on: the pointer moves by compare-and-swap, and runs are ended by silence alone.
"""

RENEW_SECONDS = 5.0
"""Pause between two renewals: two may fail before the lease ends."""


def this_cluster() -> str:
    """Return the id of the Ray cluster that this process has joined: its session, which outlives all processes of Baton's.

    With fault tolerance of the GCS it outlives the head, too, as Ray's list of jobs does.
    """
    import ray  # here: loads slowly, and `baton up` imports this module

    name: str = ray.get_runtime_context().get_session_name()
    return name


class Ownership:
    """Holds the leases of one control plane. Thread-safe; methods that ask the database block.

    Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(
        self,
        registry: Registry,
        models: Collection[str],
        identify: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``models``: those of the configuration. ``identify``: returns this cluster's id; called when it is first needed."""
        self._registry = registry
        self._names: dict[str, str] = {}
        self._identify = identify
        self._clock = clock
        self._lock = threading.Lock()
        self._renewed: float | None = None
        self._models: frozenset[str] = frozenset()
        self.look_after(models)

    def look_after(self, models: Collection[str]) -> None:
        """Hold leases on these models from now on. The leases on others end by themselves."""
        with self._lock:
            self._names = {model_lease(model): model for model in models}
            self._models &= frozenset(models)
            self._renewed = None

    @cached_property
    def cluster(self) -> str:
        """Id of this cluster."""
        return self._identify()

    def models(self) -> frozenset[str]:
        """Return the models whose roll-outs and retraining are this cluster's now. Take and renew leases when that is due."""
        with self._lock:
            now = self._clock()
            if self._renewed is None or now - self._renewed >= RENEW_SECONDS:
                names = [cluster_lease(self.cluster), *self._names]
                held = self._registry.leases.acquire(names, self.cluster, LEASE_SECONDS)
                self._note(frozenset(model for name, model in self._names.items() if name in held))
                self._renewed = now
            return self._models

    def alive(self, cluster: str) -> bool:
        """Return whether the control plane of a cluster has renewed its lease lately."""
        return cluster_lease(cluster) in self._registry.leases.held([cluster_lease(cluster)])

    def _note(self, models: frozenset[str]) -> None:
        for model in sorted(models - self._models):
            logger.info("control: this cluster looks after %s", model, extra={"model": model})
        for model in sorted(self._models - models):
            logger.warning("control: another cluster looks after %s from now on", model, extra={"model": model})
        self._models = models


def cluster_lease(cluster: str) -> str:
    """Return the name of the lease that a cluster holds while its control plane lives."""
    return f"cluster {cluster}"
