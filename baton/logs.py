"""Logging: JSON lines, fields such as the request id, and removing texts of users from the log.

Ray Serve formats the lines of replicas itself; lines of other processes have the same keys. Knows nothing of Ray.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

FACTS = ("request_id", "model", "version", "run_id")
"""Fields of a record that become keys of a JSON line, if they are known."""

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""Format of a line of text."""

_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:,\d{3})? ")

CONCEALED = "message left out because it may quote a text; logging.texts: true shows it"


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line, with the same keys as the JSON lines of Ray Serve."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. Only the standard keys and `FACTS` are included, not other attributes of the record."""
        line: dict[str, Any] = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "name": record.name,
            "filename": record.filename,
            "lineno": record.lineno,
            "process": record.process,
        }
        line |= {name: getattr(record, name) for name in FACTS if getattr(record, name, None) is not None}
        if record.exc_info:
            line["exc_text"] = record.exc_text or self.formatException(record.exc_info)
        return json.dumps(line)


class Facts(logging.Filter):
    """Adds fields to every record, from a function that returns their current values. Drops no record."""

    def __init__(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._facts = facts

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields that the record does not have yet."""
        for name, value in self._facts().items():
            if value is not None and not hasattr(record, name):
                setattr(record, name, value)
        return True


def add_facts(target: logging.Logger | logging.Handler, facts: Callable[[], Mapping[str, Any]]) -> None:
    """Add the fields that ``facts()`` returns to every record of ``target``. Replaces the function of an earlier call."""
    for old in [it for it in target.filters if isinstance(it, Facts)]:
        target.removeFilter(old)
    target.addFilter(Facts(facts))


def conceal_texts() -> None:
    """Log exceptions of this process without their messages, which may quote a text. Types and tracebacks are kept.

    Affects every logger, also those of libraries. A second call has no effect.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "conceals", False):
        return

    def concealed(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = outline(record.exc_info[1])  # formatters use it in place of the exception
        return record

    concealed.conceals = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(concealed)


def outline(error: BaseException) -> str:
    """Return the traceback of an exception and its causes, with their types and without their messages."""
    parts: list[str] = []
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        frames = "".join(traceback.format_tb(following.__traceback__))
        parts.append(f"{frames}{type(following).__module__}.{type(following).__qualname__} ({CONCEALED})")
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return "\ncaused by\n".join(parts)


def set_up(*, as_json: bool, texts: bool) -> None:
    """Set up logging to stderr in a process that Ray does not set up: warnings, and with ``as_json`` Baton's own INFO lines.

    ``texts``: log the messages of exceptions, which may quote texts of users.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(LINE))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("baton").setLevel(logging.INFO if as_json else logging.WARNING)
    if not texts:
        conceal_texts()


def stamped(text: str) -> str:
    """Return ``text`` after the local time: a line for people that goes into a log."""
    return f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}"


def without_stamp(line: str) -> str:
    """Return a line of text without the time at its beginning, if there is one."""
    return line[found.end() :] if (found := _STAMP.match(line)) else line


def reformat(*names: str) -> None:
    """Format the lines of these loggers as JSON, for libraries that add their own handlers."""
    for name in names:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(JsonFormatter())
