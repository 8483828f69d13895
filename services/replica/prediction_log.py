"""The prediction log: answers of a replica, sampled, masked and written to the registry in batches, after their requests.

A failure here never fails a request. `services.log_sampling` decides which requests are logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from baton.config.model_settings import FeedbackSettings
from baton.errors import RegistryError
from baton.store.feedback import FeedbackStore
from baton.store.records import LONGEST_ID, LoggedPrediction
from baton.tasks import AnyTask
from baton.tasks.base import text_length
from baton.text.masks import masker
from services.log_sampling import FLUSH_SECONDS, sampled
from services.replica.audit_draw import AuditDraw

logger = logging.getLogger("ray.serve")

BATCH_REQUESTS = 500
"""Requests that are written in one transaction: enough to make its cost per request small, few enough to keep it short."""

MAX_PENDING_SIZE = 64 * 2**20
"""Maximum of the answers in memory, in characters, if the database is down or too slow. Beyond it, the oldest are dropped."""

OUTPUT_SIZE = 2000
"""Characters that are added to the text of each input: an estimate of what its output takes in memory."""


@dataclass(frozen=True, kw_only=True)
class _PendingAnswer:
    """An answered request that is not written yet."""

    request_id: str
    version: int
    inputs: Sequence[Any]
    options: Sequence[Any]
    outputs: Sequence[Any]
    size: int
    """Estimate of its characters in memory."""
    at: datetime


class PredictionLog:
    """The prediction log of one replica. Lives on the replica's event loop; a request waits for `add` only."""

    def __init__(self, model: str, task: AnyTask, settings: FeedbackSettings, store: FeedbackStore, audit: AuditDraw) -> None:
        self._model, self._task, self._store, self._audit = model, task, store, audit
        self._share = settings.log
        self._mask = masker(settings.redact)
        self._pending: deque[_PendingAnswer] = deque()
        self._size = 0
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.dropped = 0
        """Requests that were to be logged and are not: the database was down for too long, or refused them."""

    def add(self, request_id: str, version: int, inputs: Sequence[Any], options: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Queue an answer to be written, if its request is in the sample.

        An answer without a request id, or with one that is too long, is not logged: no correction could name it.
        """
        if not 1 <= len(request_id) <= LONGEST_ID or not sampled(request_id, self._share):
            return
        answer = _PendingAnswer(
            request_id=request_id,
            version=version,
            inputs=inputs,
            options=options,
            outputs=outputs,
            size=sum(map(text_length, inputs)) + OUTPUT_SIZE * len(inputs),
            at=datetime.now(UTC),
        )
        self._pending.append(answer)
        self._size += answer.size
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
            while self._pending and not self._closing.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), FLUSH_SECONDS)
                await self._flush()
        finally:
            self._writer = None

    async def _flush(self) -> None:
        while self._pending:
            batch = [self._pending.popleft() for _ in range(min(BATCH_REQUESTS, len(self._pending)))]
            self._size -= sum(answer.size for answer in batch)
            try:
                await asyncio.to_thread(self._write, batch)
            except RegistryError as error:
                self._pending.extendleft(reversed(batch))
                self._size += sum(answer.size for answer in batch)
                self._make_room()
                logger.warning(
                    "%s: the prediction log cannot be written; %d requests wait for the next try, %d were dropped so far: %s",
                    self._model,
                    len(self._pending),
                    self.dropped,
                    error,
                )
                return
            except Exception:  # not an outage: these would fail again, and would keep the others waiting
                self.dropped += len(batch)
                logger.exception("%s: %d requests were dropped from the prediction log", self._model, len(batch))

    def _make_room(self) -> None:
        while self._size > MAX_PENDING_SIZE:
            self._size -= self._pending.popleft().size
            self.dropped += 1

    def _write(self, batch: Sequence[_PendingAnswer]) -> None:
        predictions = [prediction for answer in batch for prediction in self._predictions(answer)]
        self._audit.draw([prediction.input for prediction in predictions])  # first: a correction may follow the log at once
        self._store.log(predictions)

    def _predictions(self, answer: _PendingAnswer) -> list[LoggedPrediction]:
        predictions = []
        for position, (item, options, output) in enumerate(zip(answer.inputs, answer.options, answer.outputs, strict=True)):
            masked = self._mask(item)
            label, confidence = self._task.summary(output, options)
            scorable = self._task.scorable(options)
            predictions.append(
                LoggedPrediction(
                    model=self._model,
                    request_id=answer.request_id,
                    position=position,
                    version=answer.version,
                    input=masked.model_dump(mode="json"),
                    output=self._task.brief(output, masked).model_dump(mode="json") if scorable else None,
                    label=label,
                    confidence=confidence,
                    length=text_length(item),
                    created_at=answer.at,
                )
            )
        return predictions
