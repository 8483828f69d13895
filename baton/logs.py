"""What a process says in its logs, and what it must not: one JSON object a line where that is wanted, and no user's text.

Ray Serve writes the replicas' lines by itself; lines from elsewhere have the same keys. Knows nothing of Ray.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any

FACTS = ("request_id", "model", "version", "run_id")
"""What a line may be about. Keys of a JSON line where they are known."""

CONCEALED = "message left out, it may quote a text: logging.texts"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the keys that Ray Serve's own JSON lines have."""

    def format(self, record: logging.LogRecord) -> str:
        """Numbers and strings only; what else a record carries stays out."""
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
    """Adds to every record what its process knows at that moment; lets all of them pass."""

    def __init__(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._facts = facts

    def filter(self, record: logging.LogRecord) -> bool:
        """What the record says of itself counts more."""
        for name, value in self._facts().items():
            if value is not None and not hasattr(record, name):
                setattr(record, name, value)
        return True


def state(target: logging.Logger | logging.Handler, facts: Callable[[], Mapping[str, Any]]) -> None:
    """Have every record that passes ``target`` say ``facts()``, and nothing that was stated there before."""
    for old in [it for it in target.filters if isinstance(it, Facts)]:
        target.removeFilter(old)
    target.addFilter(Facts(facts))


def conceal_texts() -> None:
    """Have this process log of an exception what it is and where it came from, not its message: that may quote a text.

    It holds for every logger, also those of libraries. Twice is once.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "conceals", False):
        return

    def concealed(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = outline(record.exc_info[1])  # formatters take it for what they have formatted before
        return record

    concealed.conceals = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(concealed)


def outline(error: BaseException) -> str:
    """A traceback with the types of an exception and of its causes, without their messages."""
    parts: list[str] = []
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        frames = "".join(traceback.format_tb(following.__traceback__))
        parts.append(f"{frames}{type(following).__module__}.{type(following).__qualname__} ({CONCEALED})")
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return "\nwhich came of\n".join(parts)


def set_up(*, as_json: bool, texts: bool) -> None:
    """Logging of a process that Ray does not set up: to stderr, from warnings on, and what Baton itself says.

    ``texts``: whether exceptions may say what they say.
    """
    handler = logging.StreamHandler()
    if as_json:
        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("baton").setLevel(logging.INFO if as_json else logging.WARNING)
    if not texts:
        conceal_texts()


def reformat(*names: str) -> None:
    """Have libraries that bring handlers of their own to these loggers speak JSON, too."""
    for name in names:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(JsonFormatter())
