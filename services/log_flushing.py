"""Writes the log lines that Ray Serve holds back. It writes in batches of a thousand lines, and at once only after an error:
a service with few requests would log nothing for hours, and a process that is killed would leave nothing.
"""

from __future__ import annotations

import asyncio
import logging
from logging.handlers import MemoryHandler

FLUSH_SECONDS = 1.0
"""Pause between two writes."""


async def flush_forever(seconds: float = FLUSH_SECONDS) -> None:
    """Write, again and again, what the logger of this replica holds back."""
    while True:
        await asyncio.sleep(seconds)
        for handler in logging.getLogger("ray.serve").handlers:
            if isinstance(handler, MemoryHandler):
                handler.flush()
