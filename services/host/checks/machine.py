"""Checks memory, shared memory, disks and permissions of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from baton.backup.record import place_of
from baton.config.base_models import find_local
from baton.config.file import BatonConfig
from baton.errors import BatonError
from services.host.checks.finding import Finding, ok, problem, warning
from services.host.ports import INSTANCES

GB = 1e9

SHARED = Path("/dev/shm")
SHARED_BYTES = 1 * GB
"""Free shared memory below which Ray's object store has no room. Docker gives a container 64 MB."""

FULL_BYTES, SCARCE_BYTES = 0.5 * GB, 5 * GB
"""Free space on a disk below which nothing works, and below which it soon may not."""

BASE_BYTES, REPLICA_BYTES = 1.5 * GB, 0.3 * GB
"""Memory of Ray with the control plane and the supervisor, and of a replica beside its weights. Measured on Linux with two CPUs
as proportional set size: 1.0 GB without the dashboard's own modules, and 0.29 GB for a replica of all-MiniLM-L6-v2."""

VERSIONS = 2
"""How many versions a replica has in memory during a hand-over."""


def shared_memory() -> Iterator[Finding]:
    """Look at the free shared memory."""
    if not SHARED.is_dir():
        yield warning(f"there is no {SHARED}", "Ray keeps its objects in /tmp instead, which is slower: mount a tmpfs there")
        return
    free = shutil.disk_usage(SHARED).free
    if free < SHARED_BYTES:
        advice = "Ray's object store needs it: `docker run --shm-size 2g`, or a larger tmpfs"
        yield warning(f"{SHARED} has {free / GB:.2f} GB free", advice)
    else:
        yield ok(f"{SHARED} has {free / GB:.1f} GB free")


def disks(config: BatonConfig, state: Path) -> Iterator[Finding]:
    """Look at the free space where Baton and Ray write, once for each disk."""
    places = [INSTANCES, state]
    try:
        local = place_of(config.database, config.storage)
        places += [local.database, local.storage]
    except BatonError:  # a server, or an object store
        pass
    seen = set()
    for place in map(_existing, places):
        device = place.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        usage = shutil.disk_usage(place)
        text = f"the disk of {place} has {usage.free / GB:.1f} GB free"
        if usage.free < FULL_BYTES:
            yield problem(text, "make room: a start, a run or the database would fail")
        elif usage.free < SCARCE_BYTES:
            yield warning(text, "make room: versions, checkpoints and logs need some")
        else:
            yield ok(text)


def memory(config: BatonConfig) -> Iterator[Finding]:
    """Compare the machine's memory with what the declared models need, as far as their sizes are known."""
    needed = BASE_BYTES
    for model in config.models:
        base = find_local(model.base_model)
        weights = 0 if base is None else sum(path.stat().st_size for path in base.glob("*.safetensors"))
        needed += model.serving.replicas * (REPLICA_BYTES + VERSIONS * weights)
    total = psutil.virtual_memory().total
    text = f"{total / GB:.1f} GB of memory, and serving the declared models needs about {needed / GB:.1f} GB"
    if needed > total:
        yield problem(text, "declare fewer replicas (serving.replicas) or a smaller base model, or add memory")
    elif needed > 0.8 * total:
        yield warning(text, "a run needs some more: it may be killed")
    else:
        yield ok(text)


def permissions(state: Path) -> Iterator[Finding]:
    """Look whether this user may write where Baton writes."""
    from huggingface_hub import constants

    for place, advice in (
        (state, "BATON_STATE names another directory for logs and the record of the service"),
        (INSTANCES, "Ray's sockets and temporary files are there"),
    ):
        existing = _existing(place)
        if os.access(existing, os.W_OK | os.X_OK):
            yield ok(f"{place} can be written to" if existing == place else f"{place} can be created")
        else:
            yield problem(f"{existing} cannot be written to by this user (uid {os.getuid()})", advice)
    existing = _existing(Path(constants.HF_HUB_CACHE))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        text = f"{constants.HF_HUB_CACHE}, where base models are downloaded to, cannot be written to by this user"
        yield warning(text, "set HF_HOME to a directory that can be written to")


def _existing(path: Path) -> Path:
    """Return ``path``, or the nearest directory above it that exists."""
    return next(it for it in (path, *path.parents) if it.exists())
