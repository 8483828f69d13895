"""`baton apply`: let a service that runs use another configuration of its models, without a restart.

The order of the steps; `baton.config.changes` says what differs, and `serve_driver` changes the applications.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from baton import __version__
from baton.config.changes import KEPT, Difference, Kind, difference
from baton.config.file import BatonConfig, validate
from baton.errors import ConfigError, Conflict, NotFound, NotReady
from services.client import ApiError, Client
from services.environment import STORE_VARIABLES, loopback_environment, store_environment
from services.host import cluster
from services.host.checks.startup_warnings import with_keys_by_default
from services.host.instance import StateDirectory, alive
from services.host.readiness import wait_until_routed
from services.host.serve_driver import Report, join, leave, redeploy_control, redeploy_models, remove_undeclared
from services.names import replacing

if TYPE_CHECKING:  # it loads slowly, and every `baton status` imports this module
    from baton.store.registry import Registry

REPLACING_SECONDS = 900.0
"""How long roll-outs are held at most, if this process is killed: longer than replacing takes."""

OLDER = (
    "the service at {url} runs another version of Baton, whose configuration cannot be compared with this one's; restart it: "
    "`baton down`, `baton up`"
)


def running_config(client: Client) -> BatonConfig:
    """Return the configuration that a service uses, with passwords and secrets masked.

    Raises:
        Conflict: the service is of another version of Baton, which does not tell, or has other keys.
        ApiError, NotReady: as any call.
    """
    older = Conflict(OLDER.format(url=client.url))
    try:
        if client.get("/healthz")["version"] != __version__:
            raise older
        return validate(BatonConfig, client.get("/api/config"), source="the service")
    except ConfigError as error:
        raise older from error
    except ApiError as error:
        if error.status != NotFound.status:
            raise
        raise older from error


def in_force(config: BatonConfig, address: str | None) -> BatonConfig:
    """Return ``config`` as a service uses it; on the cluster ``address`` of someone else it requires keys by default."""
    return with_keys_by_default(config) if address else config


def compare(client: Client, config: BatonConfig, address: str | None) -> tuple[BatonConfig, Difference]:
    """Return the configuration that a service uses, and how ``config`` differs from it. Raises as `running_config`."""
    running = running_config(client)
    return running, difference(running, in_force(config, address))


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What else a difference means, in sentences."""

    notes: tuple[str, ...]
    """What happens to runs and roll-outs of models that are removed."""
    obstacles: tuple[str, ...]
    """Why nothing can be applied now."""


def look_ahead(client: Client, found: Difference) -> Outlook:
    """Ask the service what applying ``found`` would mean for what it does just now."""
    notes, obstacles = [], []
    if found.kept:  # models that are added would be declared in one database, and served from another
        differ = " and ".join(found.kept)
        obstacles.append(f"a service keeps its {differ} until it is restarted: `baton down`, `baton up`")
    for change in found.models:
        if change.kind is not Kind.REMOVED and not change.moves_replicas:
            continue
        name = change.model
        model = client.get(f"/api/models/{name}")
        run, rollout = model["active_run"], model["rollout"]
        trial = f"the roll-out of v{rollout['version']} ({rollout['state']})" if rollout else ""
        if change.kind is Kind.REMOVED:
            notes += [f"{name}: run {run} goes on; `baton cancel {run}` ends it"] if run else []
            notes += [f"{name}: {trial} stops where it is, until the model is declared again"] if rollout else []
        elif rollout:  # which counts replicas that end as victims of its version
            obstacles.append(f"{name}: {trial} is active, and would end if replicas do; `baton rollout {name}` shows it")
    return Outlook(notes=tuple(notes), obstacles=tuple(obstacles))


def apply_here(running: BatonConfig, wanted: BatonConfig, state: StateDirectory, report: Report) -> None:
    """Let the service that `baton up` started from ``state`` use the models of ``wanted``.

    Changes the environment and the working directory of this process, and does not restore them, as `supervisor.run_local`.

    Raises:
        Conflict: another process does so.
        NotReady: the service does not run yet or any more; or replicas did not start, and all is as before.
        RegistryError: the database cannot be used.
    """
    with state.changing():
        instance = state.read()
        if instance is None or not alive(instance) or not instance.address:
            raise NotReady("the service is starting or has ended; `baton status` shows which")
        os.environ.update({**cluster.environment(instance), **loopback_environment(os.environ), **store_environment(wanted)})
        os.chdir(state.directory)  # as `up` does: Ray's workers import from there
        _apply(running, wanted, instance.address, {}, report)


def apply_on_cluster(running: BatonConfig, wanted: BatonConfig, address: str, state: StateDirectory, report: Report) -> None:
    """Let the service that `baton up` deployed to the cluster at ``address`` use the models of ``wanted``.

    Raises as `apply_here`.
    """
    with state.changing():
        store_urls = {key: getattr(wanted, key) for key in STORE_VARIABLES}
        _apply(running, in_force(wanted, address), address, store_urls, report)


def _apply(running: BatonConfig, wanted: BatonConfig, address: str, store_urls: Mapping[str, str], report: Report) -> None:
    from baton.store.registry import Registry
    from services.control.bootstrap import declare

    # `running` lacks passwords and secrets, which are the same
    before = running.model_copy(update={key: getattr(wanted, key) for key in KEPT})
    after = before.model_copy(update={"models": wanted.models})
    known = {settings.name for settings in before.models}
    added = after.model_copy(update={"models": tuple(it for it in after.models if it.name not in known)})
    changes = difference(before, after).models
    moved = [it.model for it in changes if it.kind is Kind.CHANGED and it.moves_replicas]
    registry, holder = Registry(after.database), f"apply {secrets.token_hex(8)}"
    try:
        _hold_roll_outs(registry, moved, holder)
        declare(registry, added)  # replicas ask for their champion; of the others, runs go by what the service uses
        join(after, address)
        redeploy_models(after, before, report, store_urls)
        declare(registry, after)
        redeploy_control(after, report, store_urls)
        remove_undeclared(after)
    finally:
        leave()
        registry.leases.release(holder)
        registry.close()
    # not for others: one whose replicas die, which this does not change, never answers
    wait_until_routed(after, [*moved, *(it.model for it in changes if it.kind is Kind.ADDED)])


def _hold_roll_outs(registry: Registry, models: Sequence[str], holder: str) -> None:
    """Let no roll-out of these models begin by itself: it would take replicas that are replaced for victims of its version.

    Raises ``Conflict`` if one is active.
    """
    if not models:
        return
    registry.leases.acquire([replacing(model) for model in models], holder, REPLACING_SECONDS)
    active = [rollout for rollout in registry.rollouts.list_active() if rollout.model in models]
    if active:
        told = ", ".join(f"{it.model} v{it.version}" for it in active)
        raise Conflict(f"nothing was applied: a roll-out began meanwhile ({told}); apply again when it has ended")
