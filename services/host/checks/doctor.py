"""`baton doctor`: all checks at once, each with a bound on its time, in the order in which they are shown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from baton.config.file import BatonConfig
from services.host.checks import data, machine, network, software
from services.host.checks.finding import Finding, warning
from services.host.instance import StateDirectory

SECONDS = 25.0
"""Maximum time for all checks, which run at the same time. Only torch, asked for GPUs, and stores that are away take long."""

Check = Callable[[], Iterator[Finding]]


def checks_without_configuration(state: StateDirectory, environ: Mapping[str, str]) -> dict[str, Check]:
    """Return, by their names, the checks that a configuration with mistakes does not hinder."""
    return {
        "libraries": software.libraries,
        "service": partial(network.running, state),
        "permissions": partial(machine.permissions, state.directory),
        "shared memory": machine.shared_memory,
        "proxies": partial(network.proxies, environ),
    }


def checks(config: BatonConfig, state: StateDirectory, environ: Mapping[str, str]) -> dict[str, Check]:
    """Return all checks by their names."""
    return {
        "libraries": software.libraries,
        "service": partial(network.service, config, state),
        "permissions": partial(machine.permissions, state.directory),
        "disk": partial(machine.disks, config, state.directory),
        "shared memory": machine.shared_memory,
        "memory": partial(machine.memory, config),
        "gpu": partial(software.gpu, config),
        "proxies": partial(network.proxies, environ),
        "database": partial(data.database, config),
        "storage": partial(data.storage, config),
        "base models": partial(data.base_models, config),
        "data files": partial(data.data_files, config),
    }


def run(named: Mapping[str, Check], seconds: float = SECONDS) -> list[tuple[str, Finding]]:
    """Run checks at the same time, and return their findings with their names, in order.

    One that takes longer than ``seconds``, or fails unexpectedly, is a warning itself.
    """
    found: dict[str, Sequence[Finding]] = {}

    def carry_out(name: str, check: Check) -> None:
        try:
            found[name] = list(check())
        except Exception as error:  # a bug, or a machine of a kind that nobody has seen
            found[name] = [warning(f"this could not be checked: {type(error).__name__}: {error}", "tell Baton's developers")]

    deadline = time.monotonic() + seconds
    threads = [threading.Thread(target=carry_out, args=item, daemon=True) for item in named.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = [warning(f"no answer within {seconds:.0f} s", "what it asks may hang: a mounted disk, a server, a driver")]
    return [(name, finding) for name in named for finding in found.get(name, late)]
