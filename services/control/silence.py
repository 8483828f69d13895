"""For how long active runs have given no sign of life. Knows no jobs, and ends no run.

No clocks of two machines are compared, and the time of an outage does not count: what the database could not take, nobody saw.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Mapping

from baton.store.records import Run
from baton.store.registry import Registry
from services.control.ownership import cluster_lease

SILENCE_SECONDS = 30.0
"""How long a run may give no sign of life until it counts as dead. Drivers write a heartbeat every five seconds."""

LONGEST_LOOK_SECONDS = 5.0
"""Maximum of the time between two looks that counts as silence. In a longer one the database was away, or this process stood
still.
"""


class Silence:
    """Remembers the last sign of life of each run, and for how long it has been the last one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked: float | None = None
        self._runs: dict[str, tuple[Hashable, float]] = {}

    def look(self, signs: Mapping[str, Hashable]) -> None:
        """Note the newest sign of life of every active run: any value that changes as long as the run lives."""
        now = self._clock()
        passed = 0.0 if self._looked is None else min(now - self._looked, LONGEST_LOOK_SECONDS)
        self._looked = now
        before, self._runs = self._runs, {}
        for run_id, sign in signs.items():
            unchanged = run_id in before and before[run_id][0] == sign
            self._runs[run_id] = (sign, before[run_id][1] + passed if unchanged else 0.0)

    def lasts(self, run_id: str) -> bool:
        """Return whether a run has been silent for `SILENCE_SECONDS`."""
        return run_id in self._runs and self._runs[run_id][1] >= SILENCE_SECONDS


def signs_of_life(registry: Registry, runs: Collection[Run], own: str) -> dict[str, Hashable]:
    """Return each run's sign of life: its driver's heartbeat and, if it is another cluster's, the end of that one's lease.

    ``own``: id of this cluster.
    """
    leases = {run.id: cluster_lease(run.owner) for run in runs if run.owner is not None and run.owner != own}
    expiries = registry.leases.expiries(set(leases.values())) if leases else {}
    return {run.id: (run.heartbeat_at, expiries.get(leases[run.id]) if run.id in leases else None) for run in runs}
