"""Tells when ``baton.yaml`` differs from what the service uses: of the service that this file started, and of no other."""

from __future__ import annotations

import os
from pathlib import Path

from baton.config.changes import Difference
from baton.config.file import load_config
from baton.errors import BatonError, ConfigError
from services.cli.terminal import path_of, state_of
from services.client import Client
from services.host.applying import compare
from services.host.instance import alive


def pending(client: Client, config: Path | None) -> Difference | None:
    """Return how the file differs from what the service at ``client`` uses; None if they are not each other's, or unknown.

    A service that BATON_URL names, or whose configuration was rendered, was given another file.
    """
    if client.offline or not is_ours(config):
        return None
    try:
        return compare(client, load_config(path_of(config), os.environ), os.environ.get("RAY_ADDRESS"))[1]
    except BatonError:  # what the command itself asks for will tell
        return None


def mistakes(config: Path | None) -> str | None:
    """Return what is wrong with the file of a service that goes on with what it read before; None if it can be read."""
    try:
        load_config(path_of(config), os.environ)
    except ConfigError as error:
        return f"the service goes on with the configuration that it has, for the file cannot be used: {error}"
    return None


def is_ours(config: Path | None) -> bool:
    """Return whether the service that commands talk to was started by `baton up` with this file, as far as is known here."""
    if os.environ.get("BATON_URL"):
        return False
    instance = state_of(path_of(config)).read()
    return bool(os.environ.get("RAY_ADDRESS")) or (instance is not None and alive(instance))


def sentence(found: Difference, config: Path | None) -> str:
    """Return the line that commands print of a difference."""
    return f"{path_of(config).name} differs from what the service runs ({found.summary}): `baton apply`"
