"""What a check found: one line, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """Baton runs, but something will not work, or not well."""
    PROBLEM = "problem"
    """Baton does not run like this."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of `baton doctor`."""

    level: Level
    text: str
    """What was found, with its values."""
    advice: str = ""
    """What to do; empty if nothing is to be done."""


def ok(text: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(level=Level.OK, text=text)


def warning(text: str, advice: str) -> Finding:
    """Return a finding that does not keep Baton from running."""
    return Finding(level=Level.WARNING, text=text, advice=advice)


def problem(text: str, advice: str) -> Finding:
    """Return a finding with which Baton does not run."""
    return Finding(level=Level.PROBLEM, text=text, advice=advice)
