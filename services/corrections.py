"""Items of feedback → corrections in the registry, and an account of what became of each. Knows no HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from baton.config import ModelSettings
from baton.errors import DataError, InvalidInput
from baton.feedback import Correction
from baton.registry import Registry
from baton.rows import Row, example_of
from baton.tasks import task_type
from baton.tasks.base import short
from services.prediction_log import FLUSH_SECONDS

KEYS = ("id", "request_id", "position")
"""Keys of an item that are not the row's."""

LONGEST_ID = 128
MOST_POSITIONS = 2**31
ERRORS_LISTED = 100
"""Mistakes that one answer lists; the rest is counted."""

LOG_SECONDS = 3 * FLUSH_SECONDS
"""How long an item without inputs waits for the answer that it names to be logged."""

RETRY_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item as it came: its ``place`` in the list or stream, from 0, and its ``value``, raw ``line``, or ``problem``."""

    place: int
    value: Any = None
    line: bytes | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Parsed:
    """A well-formed item: the row's fields still to be checked."""

    place: int
    client_id: str | None
    request_id: str | None
    position: int
    values: Mapping[str, Any]


@dataclass
class Intake:
    """Takes one request's items, batch by batch. What `take` has counted as accepted is durable."""

    settings: ModelSettings
    registry: Registry
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._kind = task_type(self.settings.task)
        self._fields = tuple(dict.fromkeys(name for shape in self._kind.row_shapes for name in shape)) + tuple(
            self._kind.optional_fields
        )

    async def take(self, items: Sequence[Item]) -> None:
        """Check and keep a batch. A bad item is counted and explained, and costs no other."""
        deadline = time.monotonic() + LOG_SECONDS
        waiting = await asyncio.to_thread(self._keep, items, time.monotonic() >= deadline)
        while waiting:  # their answers may be on their way to the log
            await asyncio.sleep(RETRY_SECONDS)
            waiting = await asyncio.to_thread(self._keep, waiting, time.monotonic() >= deadline)

    def report(self) -> dict[str, Any]:
        """What became of the items, as JSON values."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "rejected": self.rejected,
            "errors": sorted(self.errors, key=lambda error: error["item"]),
        }

    def _keep(self, items: Sequence[Item], last: bool) -> list[Item]:
        """Store what is right, and return items whose logged answer is not there (an error of theirs the ``last`` time)."""
        corrections, waiting = [], []
        for item in items:
            try:
                parsed = self._parse(item)
                correction = self._complete(parsed)
            except InvalidInput as error:
                self._reject(item.place, str(error))
                continue
            if correction is not None:
                corrections.append(correction)
            elif last:
                self._reject(item.place, self._unknown(parsed))
            else:
                waiting.append(item)
        added = self.registry.feedback.add(self.settings.name, corrections)
        self.accepted += added.accepted
        self.duplicates += added.duplicates
        return waiting

    def _reject(self, place: int, reason: str) -> None:
        self.rejected += 1
        if len(self.errors) < ERRORS_LISTED:
            self.errors.append({"item": place, "error": reason})

    def _parse(self, item: Item) -> _Parsed:
        if item.problem is not None:
            raise InvalidInput(item.problem)
        value = item.value
        if item.line is not None:
            try:
                value = from_json(item.line)
            except ValueError as error:
                raise InvalidInput(f"not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidInput(f"a JSON object is expected, not {short(value)}")
        unknown = [key for key in value if key not in (*KEYS, *self._fields)]
        if unknown:
            raise InvalidInput(f"unknown key {unknown[0]!r}; allowed: {', '.join((*KEYS, *self._fields))}")
        position = value.get("position", 0)
        if not isinstance(position, int) or isinstance(position, bool) or not 0 <= position < MOST_POSITIONS:
            raise InvalidInput(f"position: {short(position)}: the place of an input in its request, from 0, is expected")
        return _Parsed(
            place=item.place,
            client_id=_name(value, "id"),
            request_id=_name(value, "request_id"),
            position=position,
            values={key: field for key, field in value.items() if key in self._fields and field is not None},
        )

    def _complete(self, parsed: _Parsed) -> Correction | None:
        """The correction, its missing inputs taken from the log; None where the log does not have them."""
        values = dict(parsed.values)
        if parsed.request_id is not None and not self._has_inputs(values):
            logged = self.registry.feedback.prediction(self.settings.name, parsed.request_id, parsed.position)
            if logged is None:
                return None
            values = {**{key: value for key, value in logged.input.items() if value is not None}, **values}
        try:
            example = example_of(self._kind, Row(where="", values=values), {})
        except DataError as error:
            raise InvalidInput(str(error).removeprefix(":").removeprefix(",").strip()) from None
        return Correction(
            client_id=parsed.client_id,
            request_id=parsed.request_id,
            position=parsed.position,
            example=example.model_dump(mode="json", exclude_none=True),
        )

    def _has_inputs(self, values: Mapping[str, Any]) -> bool:
        """Whether an item brings the question itself: what an input must have, or a shape of row that holds it otherwise."""
        required = {name for name, info in self._kind.Input.model_fields.items() if info.is_required()}
        shapes = (set(shape) for shape in self._kind.row_shapes)
        return required <= values.keys() or any(shape <= values.keys() for shape in shapes)

    def _unknown(self, parsed: _Parsed) -> str:
        needed = ", ".join(name for name, info in self._kind.Input.model_fields.items() if info.is_required())
        why = (
            "answers are not logged (feedback.log: 0)"
            if not self.settings.feedback.log
            else f"no logged answer has request id {parsed.request_id!r} and position {parsed.position} "
            f"(a share of {self.settings.feedback.log:g} is logged, for {self.settings.feedback.retention_days:g} days)"
        )
        return f"{why}; send the inputs with the correction: {needed}"


def _name(value: Mapping[str, Any], key: str) -> str | None:
    name = value.get(key)
    if name is None:
        return None
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_ID:
        raise InvalidInput(f"{key}: {short(name)}: a string of 1 to {LONGEST_ID} characters is expected")
    return name
