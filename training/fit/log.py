"""Logging in the processes of a run, driver and workers: with the same settings as the service that submitted the run.

Reads those settings from the environment.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from baton import logs


def logs_json() -> bool:
    """Return whether log lines are JSON objects (``logging.format: json``)."""
    return os.environ.get("BATON_LOGGING_FORMAT") == "json"


def may_log_texts() -> bool:
    """Return whether log lines may quote the texts of rows and requests (``logging.texts: true``)."""
    return os.environ.get("BATON_LOGGING_TEXTS") == "true"


def set_up() -> None:
    """Set up logging in a driver, before Ray starts."""
    logs.set_up(as_json=logs_json(), texts=may_log_texts())


def set_up_worker(**facts: Any) -> None:
    """Set up logging in a process that Ray started. Every line carries ``facts``."""
    if not may_log_texts():
        logs.conceal_texts()
    set_facts(**facts)


def set_facts(**facts: Any) -> None:
    """Add ``facts`` (keys: `logs.FACTS`) to every log line from now on."""
    for handler in logging.getLogger().handlers:
        logs.add_facts(handler, lambda: facts)
    if logs_json():  # Ray's JSON set-up lets every logger write at every level
        for name, level in ((None, logging.WARNING), ("ray", logging.WARNING), ("baton", logging.INFO)):
            logging.getLogger(name).setLevel(level)
