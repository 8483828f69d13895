"""A model gets another name (`baton rename`): its rows in the database and the files of its versions.

Killed at any time, it can be run again. The files are copied first, on a local disk as links; then one transaction renames the
rows; then the old files go. Data sets and reports stay where they are, because manifests and decisions name their place.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from baton.artifacts.storage import Storage
from baton.artifacts.suspects import store_suspects, stored_suspects
from baton.config.file import BatonConfig
from baton.errors import Conflict, InvalidInput
from baton.store.registry import Registry
from services.names import model_lease

LEASE_SECONDS = 20.0
"""How long to wait for the lease of a service that no longer has the model: it ends by itself after three quarters of that."""


def check_names(config: BatonConfig, old: str, new: str) -> None:
    """Raise ``InvalidInput`` unless the configuration has the new name and not the old one."""
    declared = [model.name for model in config.models]
    if old == new:
        raise InvalidInput(f"{old} has this name already")
    if old in declared:
        raise InvalidInput(f"the configuration still has a model {old}; give it the name {new} there first")
    if new not in declared:
        raise InvalidInput(
            f"the configuration has no model {new}, only {', '.join(declared)}; give it the new name there first"
        )


def rename(registry: Registry, storage: Storage, old: str, new: str, *, by: str, waiting: Callable[[], None]) -> None:
    """Rename a model. ``waiting`` is called if a service must let go of it first; ``by``: who asked, for the history.

    Raises:
        NotFound: there is no model ``old``.
        Conflict: it has an active run or roll-out, a service has it, or there is a model ``new`` already.
        StorageError: the files cannot be copied; nothing was renamed.
    """
    registry.check_rename(old, new)
    _await_release(registry, old, waiting)
    storage.copy_versions(old, new)
    if suspects := stored_suspects(storage, old):
        store_suspects(storage, new, suspects)
    registry.rename(old, new, f"Renamed from {old} to {new} by {by}.")
    storage.remove_versions(old)
    if suspects:  # the next model of the old name must not be asked about them
        store_suspects(storage, old, [])


def _await_release(registry: Registry, model: str, waiting: Callable[[], None]) -> None:
    """Wait until no service looks after ``model``. Raises ``Conflict`` if one goes on doing so."""
    ends = time.monotonic() + LEASE_SECONDS
    lease = [model_lease(model)]
    if not registry.leases.held(lease):
        return
    waiting()
    while registry.leases.held(lease):
        if time.monotonic() > ends:
            raise Conflict(f"a running service has the model {model}; first give it the new configuration: `baton apply`")
        time.sleep(0.5)
