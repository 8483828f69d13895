"""Logs of a run's processes, driver and workers: as the service was told that submitted it. Reads the environment."""

from __future__ import annotations

import logging
import os
from typing import Any

from baton import logs


def speaks_json() -> bool:
    """Whether lines are to be JSON objects."""
    return os.environ.get("BATON_LOGGING_FORMAT") == "json"


def may_quote() -> bool:
    """Whether lines may hold what rows and requests say."""
    return os.environ.get("BATON_LOGGING_TEXTS") == "true"


def set_up() -> None:
    """Logging of a driver, before Ray is there."""
    logs.set_up(as_json=speaks_json(), texts=may_quote())


def set_up_worker(**facts: Any) -> None:
    """Logging of a process that Ray has set up."""
    if not may_quote():
        logs.conceal_texts()
    know(**facts)


def know(**facts: Any) -> None:
    """Have every line from now on say ``facts`` (`logs.FACTS`)."""
    for handler in logging.getLogger().handlers:
        logs.state(handler, lambda: facts)
    if speaks_json():  # Ray's own set-up lets everybody say everything
        for name, level in ((None, logging.WARNING), ("ray", logging.WARNING), ("baton", logging.INFO)):
            logging.getLogger(name).setLevel(level)
