"""Wait for conditions instead of sleeping; find free ports."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


PATIENCE = 4
"""How many times as long as on an idle machine a condition may take: a deadline is only for tests that fail."""


def until(condition: Callable[[], Found], timeout: float, what: str, details: Callable[[], object] | None = None) -> Found:
    """Return the first true value of ``condition``.

    Fail with ``what``, and with what ``details`` returns then, if there is none in ``timeout`` × `PATIENCE` seconds.
    """
    timeout *= PATIENCE
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > deadline:
            seen = f"last seen: {found!r}" if details is None else str(details())
            raise AssertionError(f"not within {timeout:.0f} s: {what}; {seen}")
        time.sleep(0.05)
    return found


def free_port() -> int:
    """Return a free port outside the system's ephemeral range, so that no other program gets it by chance."""
    for port in random.sample(range(20000, 29000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")
