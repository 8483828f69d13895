"""The prediction log: answers of a replica, sampled, masked and written to the registry in batches, after their requests.

What a shadow answers to copies is written by the same rules, behind the answers that callers got. A failure here never fails a
request. `services.log_sampling` decides which answers are logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from baton.config.model_settings import FeedbackSettings
from baton.errors import RegistryError
from baton.store.feedback.predictions import PredictionStore
from baton.store.records import LONGEST_ID, LoggedPrediction
from baton.tasks import AnyTask
from baton.tasks.checks import text_length
from baton.text.masks import masker
from services.log_sampling import FLUSH_SECONDS, answer_sampled
from services.replica.audit_draw import AuditDraw

logger = logging.getLogger("ray.serve")

BATCH_REQUESTS = 500
"""Requests that are written in one transaction: enough to make its cost per request small, few enough to keep it short."""

MAX_PENDING_SIZE = 64 * 2**20
"""Maximum of the answers in memory, in characters, if the database is down or too slow. Beyond it, answers are dropped, the
oldest first, and those of a shadow before all others."""

LONGEST_TRUNCATED = 65_536
"""Characters above which a text of which a model reads only the beginning is not logged. Writing megabytes that nobody reads
would take more of the processor than the answers, and fill the database."""

OUTPUT_SIZE = 2000
"""Characters that are added to the text of each input: an estimate of what its output takes in memory."""


@dataclass(frozen=True, kw_only=True)
class _PendingAnswer:
    """An answered request that is not written yet."""

    answer_id: str
    request_id: str | None
    version: int
    items: Sequence[tuple[int, int, Any, Any, Any]]
    """Position, length, input, options and output of each input that is kept."""
    size: int
    """Estimate of its characters in memory."""
    at: datetime


@dataclass(kw_only=True)
class _Waiting:
    """Answered requests that are not written yet, oldest first."""

    answers: deque[_PendingAnswer] = field(default_factory=deque)
    size: int = 0
    """Estimate of their characters in memory."""
    dropped: int = 0
    """Requests that never will be."""

    def add(self, answer: _PendingAnswer) -> None:
        self.answers.append(answer)
        self.size += answer.size

    def take(self, most: int) -> list[_PendingAnswer]:
        batch = [self.answers.popleft() for _ in range(min(most, len(self.answers)))]
        self.size -= sum(answer.size for answer in batch)
        return batch

    def put_back(self, batch: Sequence[_PendingAnswer]) -> None:
        self.answers.extendleft(reversed(batch))
        self.size += sum(answer.size for answer in batch)

    def drop_oldest(self) -> None:
        self.take(1)
        self.dropped += 1


class PredictionLog:
    """The prediction log of one replica. Lives on the replica's event loop; a request waits for `add` only."""

    def __init__(self, model: str, task: AnyTask, settings: FeedbackSettings, store: PredictionStore, audit: AuditDraw) -> None:
        self._model, self._task, self._store, self._audit = model, task, store, audit
        self._share = settings.log
        self._mask = masker(settings.redact)
        self._longest = LONGEST_TRUNCATED if task.long_text == "truncate" else math.inf
        self._answers, self._copies = _Waiting(), _Waiting()
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def dropped(self) -> int:
        """Requests that were to be logged and are not: the database was down for too long, or refused them."""
        return self._answers.dropped

    @property
    def dropped_copies(self) -> int:
        """Copies whose answers by a shadow were to be logged and are not."""
        return self._copies.dropped

    def add(
        self,
        answer_id: str,
        version: int,
        *,
        inputs: Sequence[Any],
        options: Sequence[Any],
        outputs: Sequence[Any],
        request_id: str = "",
    ) -> None:
        """Queue an answer to be written, if it is in the sample.

        One to a text that is far longer than the model reads is not logged (`LONGEST_TRUNCATED`). A ``request_id`` that is
        empty or too long is left out: corrections can name the answer by its own id.
        """
        named = request_id if 1 <= len(request_id) <= LONGEST_ID else None
        self._add(self._answers, answer_id, version, request_id=named, inputs=inputs, options=options, outputs=outputs)

    def add_copy(
        self, answer_id: str, version: int, inputs: Sequence[Any], options: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        """Queue what a shadow answered to a copy, if the answer to the request itself is in the sample."""
        self._add(self._copies, answer_id, version, request_id=None, inputs=inputs, options=options, outputs=outputs)

    def _add(
        self,
        waiting: _Waiting,
        answer_id: str,
        version: int,
        *,
        request_id: str | None,
        inputs: Sequence[Any],
        options: Sequence[Any],
        outputs: Sequence[Any],
    ) -> None:
        if not answer_sampled(answer_id, self._share):
            return
        lengths = map(text_length, inputs)
        all_items = zip(range(len(inputs)), lengths, inputs, options, outputs, strict=True)
        items = [item for item in all_items if item[1] <= self._longest]
        if not items:
            return
        answer = _PendingAnswer(
            answer_id=answer_id,
            request_id=request_id,
            version=version,
            items=items,
            size=sum(length for _, length, *_ in items) + OUTPUT_SIZE * len(items),
            at=datetime.now(UTC),
        )
        waiting.add(answer)
        self._make_room()
        if self._writer is None and not self._closing.is_set():
            self._writer = asyncio.create_task(self._write_soon())

    async def close(self) -> None:
        """Write the answers that wait. Those that the database does not accept now are lost."""
        self._closing.set()
        if self._writer is not None:
            await self._writer  # it may be writing a batch
        await self._flush()

    async def _write_soon(self) -> None:
        try:
            while (self._answers.answers or self._copies.answers) and not self._closing.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), FLUSH_SECONDS)
                await self._flush()
        finally:
            self._writer = None

    async def _flush(self) -> None:
        try:
            await self._write_all(self._answers, self._write)
            await self._write_all(self._copies, self._write_copies)
        except RegistryError as error:
            logger.warning(
                "%s: the prediction log cannot be written; %d requests wait for the next try, %d were dropped so far; "
                "of a shadow's answers, %d wait and %d were dropped: %s",
                self._model,
                len(self._answers.answers),
                self.dropped,
                len(self._copies.answers),
                self.dropped_copies,
                error,
            )

    async def _write_all(self, waiting: _Waiting, write: Callable[[Sequence[_PendingAnswer]], None]) -> None:
        """Write everything that waits. Raises ``RegistryError`` in an outage; what is not written then goes on waiting."""
        while batch := waiting.take(BATCH_REQUESTS):
            try:
                await asyncio.to_thread(write, batch)
            except RegistryError:
                waiting.put_back(batch)
                self._make_room()
                raise
            except Exception:  # not an outage: these would fail again, and would keep the others waiting
                waiting.dropped += len(batch)
                logger.exception("%s: %d requests were dropped from the prediction log", self._model, len(batch))

    def _make_room(self) -> None:
        while self._answers.size + self._copies.size > MAX_PENDING_SIZE:
            (self._copies if self._copies.answers else self._answers).drop_oldest()

    def _write(self, batch: Sequence[_PendingAnswer]) -> None:
        predictions = [prediction for answer in batch for prediction in self._predictions(answer)]
        self._audit.draw([prediction.input for prediction in predictions])  # first: a correction may follow the log at once
        self._store.log(predictions)

    def _write_copies(self, batch: Sequence[_PendingAnswer]) -> None:
        self._store.log_shadow([prediction for answer in batch for prediction in self._predictions(answer)])

    def _predictions(self, answer: _PendingAnswer) -> list[LoggedPrediction]:
        predictions = []
        for position, length, item, options, output in answer.items:
            masked = self._mask(item)
            label, confidence = self._task.summary(output, options)
            kept = self._task.brief(self._mask(output), masked) if self._task.scorable(options) else None
            predictions.append(
                LoggedPrediction(
                    model=self._model,
                    answer_id=answer.answer_id,
                    request_id=answer.request_id,
                    position=position,
                    version=answer.version,
                    input=masked.model_dump(mode="json"),
                    output=None if kept is None else kept.model_dump(mode="json", exclude_none=True),
                    label=label,
                    confidence=confidence,
                    length=length,
                    created_at=answer.at,
                )
            )
        return predictions
