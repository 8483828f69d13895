"""Checks what the configuration names: database, storage, base models and data files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from baton.artifacts.storage import Storage
from baton.config.base_models import find_local
from baton.config.file import BatonConfig
from baton.errors import BatonError, RegistryError
from baton.store import database as stored
from baton.store.registry import Registry
from baton.urls import without_passwords
from services.host.checks.finding import Finding, ok, problem, warning
from services.host.checks.startup_warnings import task_changes

CLOCK_SECONDS = 5.0
"""Difference between this machine's clock and the database server's that is worth a warning: leases last 15 s."""


def database(config: BatonConfig) -> Iterator[Finding]:
    """Read the database, its schema and clock, and what of it the configuration contradicts. Creates and migrates nothing."""
    shown = without_passwords(config.database)
    if not stored.exists(config.database):
        yield ok(f"the database {shown} does not exist yet; `baton up` creates it")
        return
    try:
        registry = Registry(config.database, read_only=True)
    except RegistryError as error:
        yield problem(str(error), "docs/storage.md")
        return
    try:
        if registry.is_empty():
            yield ok(f"the database {shown} is empty; `baton up` prepares it")
            return
        difference = (registry.clock() - datetime.now(UTC)).total_seconds()
        if abs(difference) > CLOCK_SECONDS:
            text = f"the clock of {shown} is {difference:+.0f} s from this machine's"
            yield warning(text, "synchronise both (NTP): times in the history, and keys that expire, go by them")
        registry.check()
        yield ok(f"the database {shown} answers, with this version's schema")
        for change in task_changes(config, registry):
            yield warning(change, "see above")
    except RegistryError as error:
        older = "`baton up` migrates it" in str(error)
        yield warning(str(error), "back it up first: docs/operations.md") if older else problem(str(error), "docs/storage.md")
    finally:
        registry.close()


def storage(config: BatonConfig) -> Iterator[Finding]:
    """Write a small file to the storage and delete it. A directory that does not exist yet is not created."""
    try:
        opened = Storage(config.storage)
        if opened.local and not opened.directory.exists():
            above = next(path for path in opened.directory.parents if path.exists())
            if above.is_dir() and os.access(above, os.W_OK):
                yield ok(f"the storage {config.storage} does not exist yet; `baton up` creates it")
            else:
                yield problem(
                    f"the storage {config.storage} cannot be created: {above} is no directory that this user can write to",
                    "choose another path",
                )
            return
        opened.check_writable()
        yield ok(f"the storage {config.storage} can be written to")
    except BatonError as error:
        yield problem(str(error), "docs/storage.md")


def base_models(config: BatonConfig) -> Iterator[Finding]:
    """Look whether base models are on this machine. Downloads nothing."""
    for name in dict.fromkeys(model.base_model for model in config.models):
        if (there := find_local(name)) is not None:
            yield ok(f"base model {name} is in {there}")
        elif name.startswith((".", "/")):
            yield problem(
                f"base model {name}: no such directory with a model", "name a Hugging Face directory, or an id of the hub"
            )
        elif os.environ.get("HF_HUB_OFFLINE") == "1":
            text = f"base model {name} is not on this machine, and HF_HUB_OFFLINE=1 forbids a download"
            yield problem(text, "give a directory, or unset it for the first run")
        else:
            yield warning(f"base model {name} is not on this machine", "the first run downloads it from the Hugging Face hub")


def data_files(config: BatonConfig) -> Iterator[Finding]:
    """Look whether data files are on this machine. Runs read them on the node where they run."""
    for model in config.models:
        for key, value in (("train", model.data.train), ("holdout", model.data.holdout)):
            if isinstance(value, str) and Path(value).is_absolute():
                there = Path(value).is_file()
                text = f"{model.name}: data.{key}: {value}"
                advice = "runs read it on their node; put it there, or correct the path"
                yield ok(f"{text} is there") if there else warning(f"{text} does not exist on this machine", advice)
        if model.data.train is None:
            judged = "data.holdout judges them" if model.data.judges else "nothing judges them: there is no data.holdout either"
            text = f"{model.name}: data.train is not declared: versions can only be registered (`baton register`), and {judged}"
            yield warning(text, "declare data.train to train")
