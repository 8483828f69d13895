"""Waiting for a condition, never for a time; and ports for what is waited for."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def until(condition: Callable[[], Found], timeout: float, what: str) -> Found:
    """The first true value of ``condition``. Fails, and names ``what``, after ``timeout`` seconds without one."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}; last seen: {found!r}"
        time.sleep(0.05)
    return found


def free_port() -> int:
    """A port below those that the system hands out by itself: only who draws the same one takes it in the meantime."""
    for port in random.sample(range(20000, 29000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")
