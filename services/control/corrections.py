"""Takes items of feedback: checks each, stores it as a correction, and reports what it accepted or rejected. Knows no HTTP."""

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
from baton.store.feedback.correction import Correction
from baton.store.feedback.predictions import AnswerName
from baton.store.records import LARGEST_INTEGER, LONGEST_ID, Feedback, LoggedPrediction
from baton.store.registry import Registry
from baton.tasks import task_type
from baton.tasks.rows import Row, example_of
from baton.text.normal_form import fingerprint
from baton.validation import short_repr
from services.log_sampling import ANSWER_ID, FLUSH_SECONDS, answer_sampled, request_sampled

KEYS = ("id", "answer_id", "request_id", "position")
"""Keys of an item that are not fields of the row."""

NOTE = "_"
"""Keys that begin so are notes for people and tools, such as those of `baton data --suspects`. They are not stored."""

ERRORS_LISTED = 100
"""Maximum number of errors in one report; the others are only counted."""

HIDDEN = "\N{FULL BLOCK}"
"""Character that stands for each one of a logged input of which nothing may be told."""

LOG_SECONDS = 5 * FLUSH_SECONDS
"""How long items without inputs wait until the answers that they refer to are in the log: the time of five writes."""

RETRY_SECONDS = 0.2
"""Pause before the log is read again for such items: short, because the client waits."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item as it was received: a parsed ``value``, a raw ``line``, or a ``problem``."""

    index: int
    """Position in the list or stream, from 0."""
    value: Any = None
    """The JSON value, if the body was parsed as a whole."""
    line: bytes | None = None
    """The line of JSON Lines; it is parsed later."""
    problem: str | None = None
    """Why the item could not be read."""


@dataclass(frozen=True, kw_only=True)
class _Parsed:
    """A well-formed item, whose fields of the row are not checked yet."""

    index: int
    client_id: str | None
    answer: AnswerName | None
    """The answer that it is about; None if it names none."""
    position: int
    values: Mapping[str, Any]


@dataclass
class Intake:
    """Takes the items of one request, batch by batch. Items that `take` counted as accepted are durable.

    It waits at most `LOG_SECONDS` per request, not per batch, for answers that are not in the log yet.
    """

    settings: ModelSettings
    registry: Registry
    sender: str | None = None
    """Id of the API key of the request; None without one."""
    actor: str | None = None
    """Name of that key."""
    labels: bool = True
    """Whether the sender may label what the audit has drawn. Its corrections of such texts are then labels, which judge."""
    accepted: int = 0
    duplicates: int = 0
    replaced: int = 0
    """How many of the accepted ones took the place of an earlier one with the same id."""
    rejected: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    new_labels: set[str] = field(default_factory=set)
    """Labels of corrections that no row of the newest data set has: new or misspelled ones. At most `LABELS_LISTED`."""

    def __post_init__(self) -> None:
        self._task_cls = task_type(self.settings.task)
        shaped = (name for shape in self._task_cls.row_shapes for name in shape)
        fields = dict.fromkeys([*shaped, *self._task_cls.optional_fields])
        self._fields = tuple(name for name in fields if name not in KEYS)
        self._labels: Collection[str] | None = None
        self._wait_left = LOG_SECONDS

    async def take(self, items: Sequence[Item]) -> None:
        """Check and store a batch. A bad item is counted and reported, and does not affect the others.

        Raises ``OverQuota`` if the sender may not have the batch stored now; earlier batches stay.
        """
        waiting = await asyncio.to_thread(lambda: self._store(self._parse_items(items)))
        while waiting:  # their answers may reach the log soon
            began = time.monotonic()
            await asyncio.sleep(RETRY_SECONDS)
            self._wait_left -= time.monotonic() - began
            waiting = await asyncio.to_thread(self._store, waiting)

    @property
    def all_rejected(self) -> bool:
        """Whether items were rejected and no item could be used."""
        return self.rejected > 0 and not (self.accepted or self.duplicates)

    def report(self) -> dict[str, Any]:
        """Return how many items were accepted, known already or rejected, and the errors, as JSON values."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "replaced": self.replaced,
            "rejected": self.rejected,
            "errors": sorted(self.errors, key=lambda error: error["item"]),
            "new_labels": sorted(self.new_labels),
        }

    def rejection(self) -> str:
        """Return why no item could be used: the error of the first one. Only if `all_rejected`."""
        first = min(self.errors, key=lambda error: error["item"])
        reason: str = first["error"]
        return reason if self.rejected == 1 else f"none of {self.rejected:,} items can be used; item {first['item']}: {reason}"

    def _parse_items(self, items: Sequence[Item]) -> list[_Parsed]:
        """Return the well-formed items, and reject the others."""
        parsed = []
        for item in items:
            client_id = None
            try:
                value = _object(item)
                client_id = _id_for_report(value)
                parsed.append(self._parse(item.index, value))
            except InvalidInput as error:
                self._reject(item.index, client_id, str(error))
        return parsed

    def _store(self, items: Sequence[_Parsed]) -> list[_Parsed]:
        """Store the valid items; return the first item whose answer may still reach the log, and all items after it.

        Later items wait too, because the order must stay: of two corrections of one text, the later one counts.
        """
        logged = self._logged(items)
        unclear = {item.index: item for item in items if self._is_unclear(item, logged)}
        stored = self._stored([*unclear.values()])
        self._labels = self._known_labels() if self._labels is None else self._labels
        corrections, waiting = [], []
        for item in items:
            logged_answer = logged.get(item.answer) if item.answer is not None and self._needs_inputs(item) else None
            inputs: Mapping[str, Any] | None = None if logged_answer is None else logged_answer.input
            if item.answer is not None and item.index in unclear:
                inputs = self._inputs_of(stored.get(item.client_id or ""), item)
                if inputs is None and item.answer not in logged and self._wait_left > 0 and self._may_be_logged(item):
                    waiting.append(item)
                    continue
                if inputs is None:
                    why = self._ambiguous(item.answer) if item.answer in logged else self._not_logged(item.answer)
                    self._reject(item.index, item.client_id, why)
                    continue
            if waiting:
                waiting.append(item)
                continue
            try:
                corrections.append(self._complete(item, inputs))
            except InvalidInput as error:
                self._reject(item.index, item.client_id, str(error))
        added = self.registry.feedback.add(self.settings.name, corrections, max_per_day=self.settings.feedback.max_per_day)
        self.accepted += added.accepted
        self.duplicates += added.duplicates
        self.replaced += added.replaced
        return waiting

    def _known_labels(self) -> Collection[str]:
        """Return the labels of the rows of the newest data set, in both splits."""
        newest = self.registry.datasets.latest(self.settings.name)
        counts = newest.counts if newest else {}
        return {label for sources in counts.values() for rows in sources.values() for label in rows}

    def _is_unclear(self, item: _Parsed, logged: Mapping[AnswerName, LoggedPrediction | None]) -> bool:
        """Return whether the log does not say which inputs the item is about."""
        return item.answer is not None and self._needs_inputs(item) and logged.get(item.answer) is None

    def _stored(self, items: Sequence[_Parsed]) -> Mapping[str, Feedback]:
        """Return the corrections that the registry has under the items' client ids."""
        ids = [item.client_id for item in items if item.client_id is not None]
        return self.registry.feedback.named(self.settings.name, self.sender, ids) if ids else {}

    def _inputs_of(self, stored: Feedback | None, item: _Parsed) -> Mapping[str, Any] | None:
        """Return the inputs of a stored correction if it is about the same answer: its text may have left the log since."""
        answer = item.answer
        if stored is None or answer is None or stored.position != answer.position:
            return None
        if (stored.request_id if answer.answer_id is None else stored.answer_id) != (answer.answer_id or answer.request_id):
            return None
        return {name: value for name, value in stored.example.items() if name in self._task_cls.Input.model_fields}

    def _may_be_logged(self, item: _Parsed) -> bool:
        share, answer = self.settings.feedback.log, item.answer
        if answer is None:
            return False
        if answer.answer_id is not None:
            return answer_sampled(answer.answer_id, share)
        return request_sampled(answer.request_id or "", share)

    def _logged(self, items: Sequence[_Parsed]) -> dict[AnswerName, LoggedPrediction | None]:
        """Return the logged answers of the items that need their inputs; see `PredictionStore.find`."""
        answers = {item.answer for item in items if item.answer is not None and self._needs_inputs(item)}
        return self.registry.predictions.find(self.settings.name, answers) if answers else {}

    def _reject(self, index: int, client_id: str | None, reason: str) -> None:
        self.rejected += 1
        if len(self.errors) < ERRORS_LISTED:
            self.errors.append({"item": index, "id": client_id, "error": reason})

    def _parse(self, index: int, value: Mapping[str, Any]) -> _Parsed:
        unknown = [key for key in value if key not in (*KEYS, *self._fields) and not key.startswith(NOTE)]
        if unknown:
            allowed = (*KEYS, *self._fields)
            near = difflib.get_close_matches(unknown[0], allowed, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InvalidInput(f"unknown key {unknown[0]!r}; {hint}allowed: {', '.join(allowed)}")
        position = value.get("position")
        if position is None:
            position = 0
        if not isinstance(position, int) or isinstance(position, bool) or not 0 <= position <= LARGEST_INTEGER:
            raise InvalidInput(f"position: {short_repr(position)}: the index of an input in its request, from 0, is expected")
        return _Parsed(
            index=index,
            client_id=_checked_id(value, "id"),
            answer=_answer_name(value, position),
            position=position,
            values={key: field for key, field in value.items() if key in self._fields and field is not None},
        )

    def _complete(self, item: _Parsed, inputs: Mapping[str, Any] | None) -> Correction:
        """Return the correction; take the inputs that it does not have from ``inputs``.

        Raises ``InvalidInput`` unless the result is a valid row.
        """
        values = dict(item.values)
        if inputs is not None:
            values = {**{key: value for key, value in inputs.items() if value is not None}, **values}
        try:
            example = example_of(self._task_cls, Row(where="", values=values), {})
        except DataError as error:
            raise InvalidInput(self._complaint(item, inputs, _without_place(error))) from None
        if self._labels:
            for label in set(self._task_cls.labels_in(example)).difference(self._labels):
                if len(self.new_labels) < LABELS_LISTED:
                    self.new_labels.add(shown(label))
        quotes = self._task_cls.target in ("span", "text")
        return Correction(
            client_id=item.client_id,
            answer_id=None if item.answer is None else item.answer.answer_id,
            request_id=None if item.answer is None else item.answer.request_id,
            position=item.position,
            example=example.model_dump(mode="json", exclude_none=True),
            answer_fields=() if quotes else tuple(self._task_cls.answer_of(example)),
            sender=self.sender,
            actor=self.actor,
            audited_as=fingerprint(self._task_cls.content(example)) if self.labels else None,
        )

    def _complaint(self, item: _Parsed, inputs: Mapping[str, Any] | None, told: str) -> str:
        """Return ``told``, what is wrong with an item, unless it quotes ``inputs`` from the log: not every sender may read it.

        It quotes nothing if it is the same about inputs of which nothing can be read.
        """
        if inputs is None:
            return told
        hidden = {name: HIDDEN * len(value) for name, value in inputs.items() if isinstance(value, str)}
        try:
            example_of(self._task_cls, Row(where="", values={**hidden, **item.values}), {})
        except DataError as error:
            if _without_place(error) == told:
                return told
        return (
            f"{', '.join(item.values)}: this does not fit the logged input, which messages do not quote; send the inputs with "
            f"the correction to be told why: {self._needed}"
        )

    def _needs_inputs(self, item: _Parsed) -> bool:
        """Return whether the item's inputs must come from the log.

        That is so if it names an answer, and has neither all required fields of an input nor all fields of a row shape.
        """
        if item.answer is None:
            return False
        required = {name for name, info in self._task_cls.Input.model_fields.items() if info.is_required()}
        shapes = (set(shape) for shape in self._task_cls.row_shapes)
        return not required <= item.values.keys() and not any(shape <= item.values.keys() for shape in shapes)

    @property
    def _needed(self) -> str:
        """The fields of an input, for messages."""
        return ", ".join(name for name, info in self._task_cls.Input.model_fields.items() if info.is_required())

    def _ambiguous(self, answer: AnswerName) -> str:
        return (
            f"the request id {answer.request_id!r} was used by several requests with different inputs: name the answer by "
            f"its own id (`answer_id`: its header x-answer-id), or send the inputs with the correction: {self._needed}"
        )

    def _not_logged(self, answer: AnswerName) -> str:
        """Return why an answer cannot be found, and what the client can do."""
        name = f"answer id {answer.answer_id!r}" if answer.answer_id is not None else f"request id {answer.request_id!r}"
        why = (
            "answers are not logged (feedback.log: 0)"
            if not self.settings.feedback.log
            else f"no logged answer has {name} and position {answer.position} "
            f"(a share of {self.settings.feedback.log:g} is logged, for {self.settings.feedback.retention_days:g} days)"
        )
        return f"{why}; send the inputs with the correction: {self._needed}"


def _without_place(error: DataError) -> str:
    """Return a message about a row without the place of the row, which an item has not."""
    return str(error).lstrip(":, ")


def _object(item: Item) -> dict[str, Any]:
    """Return the content of an item. Raises ``InvalidInput`` unless it is a JSON object."""
    if item.problem is not None:
        raise InvalidInput(item.problem)
    value = item.value
    if item.line is not None:
        try:
            value = from_json(item.line)
        except ValueError as error:
            where = str(error).replace("line 1 column", "character")  # the report has the number of the line already
            raise InvalidInput(f"not valid JSON: {where}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"a JSON object is expected, not {short_repr(value)}")
    return value


def _id_for_report(value: Mapping[str, Any]) -> str | None:
    """Return the client's id of an item, for the error report; None if it has none, or one that is too long to repeat."""
    name = value.get("id")
    return name if isinstance(name, str) and len(name) <= LONGEST_ID else None


def _answer_name(value: Mapping[str, Any], position: int) -> AnswerName | None:
    """Return the answer that an item is about; its own id counts if it has both. Raises ``InvalidInput`` for a broken one."""
    answer_id, request_id = _checked_id(value, "answer_id"), _checked_id(value, "request_id")
    if answer_id is None and request_id is None:
        return None
    if answer_id is not None and not ANSWER_ID.fullmatch(answer_id):
        raise InvalidInput(
            f"answer_id: {short_repr(answer_id)}: 32 hexadecimal digits, as in the header x-answer-id, are expected"
        )
    return AnswerName(answer_id, request_id, position)


def _checked_id(value: Mapping[str, Any], key: str) -> str | None:
    name = value.get(key)
    if name is None:
        return None
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_ID or not name.isprintable():
        raise InvalidInput(f"{key}: {short_repr(name)}: a string of 1 to {LONGEST_ID} printable characters is expected")
    return name
