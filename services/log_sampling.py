"""Which answers the prediction log keeps, and how often it is written: replicas write by it, the control plane waits by it."""

from __future__ import annotations

import hashlib

FLUSH_SECONDS = 1.0
"""Pause between two writes of a replica's prediction log."""


def sampled(request_id: str, share: float) -> bool:
    """Return whether the log keeps the answer to ``request_id`` when it keeps a ``share`` of all (0 to 1).

    A hash decides, so that all replicas agree, also after a restart, and a larger share contains every smaller one.
    """
    if share >= 1:
        return True
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 < share
