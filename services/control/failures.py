"""Error handling of the background loops: a failed step is logged and tried again, and stops no other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from baton.errors import BatonError

logger = logging.getLogger("ray.serve")


@contextlib.contextmanager
def log_failures(what: str, **facts: Any) -> Iterator[None]:
    """Log any exception of the block instead of raising it.

    ``what`` names the step in the message. ``facts`` become fields of the log record (`logs.FACTS`).
    """
    try:
        yield
    except BatonError as error:  # expected: an outage, or a conflict with another process
        logger.warning("control: %s failed: %s", what, error, extra=facts)
    except Exception:
        logger.exception("control: %s failed unexpectedly", what, extra=facts)


class RegistryHealth:
    """Remembers whether the last step on the registry succeeded, and logs a problem that lasts once."""

    def __init__(self) -> None:
        self.problem: str | None = None
        """Why the last step failed; None if it succeeded, or before the first."""

    @property
    def usable(self) -> bool:
        """Whether the last step succeeded."""
        return self.problem is None

    async def run_step(self, step: Callable[[], None]) -> bool:
        """Run a blocking step on the registry in a thread, and return whether it succeeded."""
        try:
            await asyncio.to_thread(step)
        except Exception as error:
            expected = isinstance(error, BatonError)
            problem = str(error) if expected else f"{type(error).__name__} (unexpected)"
            if problem != self.problem:
                logger.warning(
                    "control: the registry cannot be used: %s; trying again", problem, exc_info=None if expected else error
                )
            self.problem = problem
            return False
        self.problem = None
        return True
