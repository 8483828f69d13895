"""Items of feedback → corrections in the registry, and an account of what became of each. Knows no HTTP."""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from baton.artifacts.frozen import shown
from baton.client import LABELS_LISTED
from baton.config.model_settings import ModelSettings
from baton.errors import DataError, InvalidInput
from baton.store.feedback import Correction
from baton.store.records import LONGEST_ID, LoggedPrediction
from baton.store.registry import Registry
from baton.tasks import task_type
from baton.tasks.base import short_repr
from baton.tasks.rows import Row, example_of
from services.replica.prediction_log import FLUSH_SECONDS, sampled

KEYS = ("id", "request_id", "position")
"""Keys of an item that are not the row's."""

MOST_POSITIONS = 2**31
ERRORS_LISTED = 100
"""Mistakes that one answer lists; the rest is counted."""

LOG_SECONDS = 5 * FLUSH_SECONDS
"""How long items without inputs wait for the answers that they name to be logged."""

RETRY_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item as it came: its ``index`` in the list or stream, from 0, and its ``value``, raw ``line``, or ``problem``."""

    index: int
    value: Any = None
    line: bytes | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Parsed:
    """A well-formed item: the row's fields still to be checked."""

    index: int
    client_id: str | None
    request_id: str | None
    position: int
    values: Mapping[str, Any]


@dataclass
class Intake:
    """Takes one request's items, batch by batch. What `take` has counted as accepted is durable.

    For answers that are not in the log it waits `LOG_SECONDS` in all, however many batches there are.
    """

    settings: ModelSettings
    registry: Registry
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    new_labels: set[str] = field(default_factory=set)
    """The first labels of corrections that the newest data set has no row of: new ones, or mistyped."""

    def __post_init__(self) -> None:
        self._kind = task_type(self.settings.task)
        shaped = (name for shape in self._kind.row_shapes for name in shape)
        fields = dict.fromkeys([*shaped, *self._kind.optional_fields])
        self._fields = tuple(name for name in fields if name not in KEYS)
        self._labels: Collection[str] | None = None
        self._patience = LOG_SECONDS

    async def take(self, items: Sequence[Item]) -> None:
        """Check and keep a batch. A bad item is counted and explained, and costs no other."""
        waiting = await asyncio.to_thread(lambda: self._keep(self._parsed(items)))
        while waiting:  # their answers may be on their way to the log
            began = time.monotonic()
            await asyncio.sleep(RETRY_SECONDS)
            self._patience -= time.monotonic() - began
            waiting = await asyncio.to_thread(self._keep, waiting)

    @property
    def useless(self) -> bool:
        """Whether nothing of what came could be used."""
        return self.rejected > 0 and not (self.accepted or self.duplicates)

    def report(self) -> dict[str, Any]:
        """What became of the items, as JSON values."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "rejected": self.rejected,
            "errors": sorted(self.errors, key=lambda error: error["item"]),
            "new_labels": sorted(self.new_labels),
        }

    def complaint(self) -> str:
        """Why nothing could be used: of one item its own mistake, of many the first one's."""
        first = min(self.errors, key=lambda error: error["item"])
        reason: str = first["error"]
        return reason if self.rejected == 1 else f"none of {self.rejected:,} items can be used; item {first['item']}: {reason}"

    def _parsed(self, items: Sequence[Item]) -> list[_Parsed]:
        """The well-formed items; the others are rejected."""
        parsed = []
        for item in items:
            client_id = None
            try:
                value = _object(item)
                client_id = _own_id(value)
                parsed.append(self._parse(item.index, value))
            except InvalidInput as error:
                self._reject(item.index, client_id, str(error))
        return parsed

    def _keep(self, items: Sequence[_Parsed]) -> list[_Parsed]:
        """Store what is right, and return items whose answers may still come to the log, with all that came after them: of two
        corrections of one text the later one counts.
        """
        logged = self._logged(items)
        missing = [item for item in items if self._needs_inputs(item) and (item.request_id or "", item.position) not in logged]
        known, absent = self._known(missing), {item.index for item in missing}
        self._labels = self._known_labels() if self._labels is None else self._labels
        corrections, waiting = [], []
        for item in items:
            index = (item.request_id or "", item.position)
            if item.index in absent:
                if item.client_id in known:  # sent again, though its answer may have left the log by now
                    self.duplicates += 1
                elif self._patience > 0 and sampled(index[0], self.settings.feedback.log):
                    waiting.append(item)
                else:
                    self._reject(item.index, item.client_id, self._unknown(item))
                continue
            if waiting:
                waiting.append(item)
                continue
            try:
                corrections.append(self._complete(item, logged.get(index)))
            except InvalidInput as error:
                self._reject(item.index, item.client_id, str(error))
        added = self.registry.feedback.add(self.settings.name, corrections)
        self.accepted += added.accepted
        self.duplicates += added.duplicates
        return waiting

    def _known_labels(self) -> Collection[str]:
        """The labels that rows of the newest data set have, on either split."""
        newest = self.registry.datasets.latest(self.settings.name)
        counts = newest.counts if newest else {}
        return {label for sources in counts.values() for rows in sources.values() for label in rows}

    def _known(self, items: Sequence[_Parsed]) -> Collection[str]:
        """Of their client ids those that are stored already."""
        ids = [item.client_id for item in items if item.client_id is not None]
        return self.registry.feedback.known(self.settings.name, ids) if ids else ()

    def _logged(self, items: Sequence[_Parsed]) -> dict[tuple[str, int], LoggedPrediction]:
        """The logged answers of those items that need their inputs."""
        places = {(item.request_id or "", item.position) for item in items if self._needs_inputs(item)}
        return self.registry.feedback.predictions(self.settings.name, places) if places else {}

    def _reject(self, index: int, client_id: str | None, reason: str) -> None:
        self.rejected += 1
        if len(self.errors) < ERRORS_LISTED:
            self.errors.append({"item": index, "id": client_id, "error": reason})

    def _parse(self, index: int, value: Mapping[str, Any]) -> _Parsed:
        unknown = [key for key in value if key not in (*KEYS, *self._fields)]
        if unknown:
            allowed = (*KEYS, *self._fields)
            near = difflib.get_close_matches(unknown[0], allowed, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InvalidInput(f"unknown key {unknown[0]!r}; {hint}allowed: {', '.join(allowed)}")
        position = value.get("position")
        if position is None:
            position = 0
        if not isinstance(position, int) or isinstance(position, bool) or not 0 <= position < MOST_POSITIONS:
            raise InvalidInput(f"position: {short_repr(position)}: the index of an input in its request, from 0, is expected")
        return _Parsed(
            index=index,
            client_id=_name(value, "id"),
            request_id=_name(value, "request_id"),
            position=position,
            values={key: field for key, field in value.items() if key in self._fields and field is not None},
        )

    def _complete(self, item: _Parsed, logged: LoggedPrediction | None) -> Correction:
        """The correction, its missing inputs taken from the logged answer. Raises ``InvalidInput`` for what is no row."""
        values = dict(item.values)
        if logged is not None:
            values = {**{key: value for key, value in logged.input.items() if value is not None}, **values}
        try:
            example = example_of(self._kind, Row(where="", values=values), {})
        except DataError as error:
            raise InvalidInput(str(error).lstrip(":, ")) from None
        if self._labels:
            for label in set(self._kind.labels_in(example)).difference(self._labels):
                if len(self.new_labels) < LABELS_LISTED:
                    self.new_labels.add(shown(label))
        return Correction(
            client_id=item.client_id,
            request_id=item.request_id,
            position=item.position,
            example=example.model_dump(mode="json", exclude_none=True),
        )

    def _needs_inputs(self, item: _Parsed) -> bool:
        """Whether an item leaves the question itself to the log: it has neither all that an input must have, nor all of a
        shape of row that holds it otherwise.
        """
        if item.request_id is None:
            return False
        required = {name for name, info in self._kind.Input.model_fields.items() if info.is_required()}
        shapes = (set(shape) for shape in self._kind.row_shapes)
        return not required <= item.values.keys() and not any(shape <= item.values.keys() for shape in shapes)

    def _unknown(self, parsed: _Parsed) -> str:
        needed = ", ".join(name for name, info in self._kind.Input.model_fields.items() if info.is_required())
        why = (
            "answers are not logged (feedback.log: 0)"
            if not self.settings.feedback.log
            else f"no logged answer has request id {parsed.request_id!r} and position {parsed.position} "
            f"(a share of {self.settings.feedback.log:g} is logged, for {self.settings.feedback.retention_days:g} days)"
        )
        return f"{why}; send the inputs with the correction: {needed}"


def _object(item: Item) -> dict[str, Any]:
    """What an item says. Raises ``InvalidInput`` where that is no JSON object."""
    if item.problem is not None:
        raise InvalidInput(item.problem)
    value = item.value
    if item.line is not None:
        try:
            value = from_json(item.line)
        except ValueError as error:
            raise InvalidInput(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"a JSON object is expected, not {short_repr(value)}")
    return value


def _own_id(value: Mapping[str, Any]) -> str | None:
    """The sender's id of an item, for an account of it; None where it has none that can be repeated."""
    name = value.get("id")
    return name if isinstance(name, str) and len(name) <= LONGEST_ID else None


def _name(value: Mapping[str, Any], key: str) -> str | None:
    name = value.get(key)
    if name is None:
        return None
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_ID or not name.isprintable():
        raise InvalidInput(f"{key}: {short_repr(name)}: a string of 1 to {LONGEST_ID} printable characters is expected")
    return name
