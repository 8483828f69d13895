"""What a replica answered, written to the registry off the request path: sampled, masked, in batches. Never fails a request."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
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

logger = logging.getLogger("ray.serve")

FLUSH_SECONDS = 1.0
"""How long an answer may wait to be written, and so how soon a correction may name it by its request id alone."""

BATCH = 500
"""Requests that are written at once."""

MOST_WAITING = 64 * 2**20
"""Characters in memory while the database does not answer or does not keep up; the oldest answers are dropped."""

INPUT_ROOM = 2000
"""Characters that an input counts beside its text: about what its output takes."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One request with its answer, as it waits to be written; ``size`` is about the characters that it holds."""

    request_id: str
    version: int
    inputs: Sequence[Any]
    options: Sequence[Any]
    outputs: Sequence[Any]
    size: int
    at: datetime


class PredictionLog:
    """The log of one model's replica. Lives on its event loop; `add` is all that a request pays for."""

    def __init__(self, model: str, task: AnyTask, settings: FeedbackSettings, store: FeedbackStore) -> None:
        self._model, self._task, self._store = model, task, store
        self._share = settings.log
        self._mask = masker(settings.redact)
        self._waiting: deque[Answered] = deque()
        self._size = 0
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.dropped = 0
        """Requests whose answers are not logged: the database was down for too long, or did not take them."""

    def add(self, request_id: str, version: int, inputs: Sequence[Any], options: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Keep an answer to be written soon, if the sample has it. One without a request id could never be asked for."""
        if not 1 <= len(request_id) <= LONGEST_ID or not sampled(request_id, self._share):
            return
        answered = Answered(
            request_id=request_id,
            version=version,
            inputs=inputs,
            options=options,
            outputs=outputs,
            size=sum(map(text_length, inputs)) + INPUT_ROOM * len(inputs),
            at=datetime.now(UTC),
        )
        self._waiting.append(answered)
        self._size += answered.size
        self._make_room()
        if self._writer is None and not self._closing.is_set():
            self._writer = asyncio.create_task(self._write_soon())

    async def close(self) -> None:
        """Write what waits. What the database does not take now is lost."""
        self._closing.set()
        if self._writer is not None:
            await self._writer  # it may be in the middle of a batch
        await self._flush()

    async def _write_soon(self) -> None:
        try:
            while self._waiting and not self._closing.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), FLUSH_SECONDS)
                await self._flush()
        finally:
            self._writer = None

    async def _flush(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._size -= sum(answered.size for answered in batch)
            try:
                await asyncio.to_thread(self._write, batch)
            except RegistryError as error:
                self._waiting.extendleft(reversed(batch))
                self._size += sum(answered.size for answered in batch)
                self._make_room()
                logger.warning(
                    "%s: %d answers wait to be logged, %d were dropped: %s",
                    self._model,
                    len(self._waiting),
                    self.dropped,
                    error,
                )
                return
            except Exception:  # these will not do any better the next time, and must not keep the others
                self.dropped += len(batch)
                logger.exception("%s: %d answers cannot be logged", self._model, len(batch))

    def _make_room(self) -> None:
        while self._size > MOST_WAITING:
            self._size -= self._waiting.popleft().size
            self.dropped += 1

    def _write(self, batch: Sequence[Answered]) -> None:
        self._store.log([prediction for answered in batch for prediction in self._predictions(answered)])

    def _predictions(self, answered: Answered) -> list[LoggedPrediction]:
        predictions = []
        for position, (item, options, output) in enumerate(
            zip(answered.inputs, answered.options, answered.outputs, strict=True)
        ):
            masked = self._mask(item)
            label, confidence = self._task.summary(output, options)
            scorable = self._task.scorable(options)
            predictions.append(
                LoggedPrediction(
                    model=self._model,
                    request_id=answered.request_id,
                    position=position,
                    version=answered.version,
                    input=masked.model_dump(mode="json"),
                    output=self._task.brief(output, masked).model_dump(mode="json") if scorable else None,
                    label=label,
                    confidence=confidence,
                    length=text_length(item),
                    created_at=answered.at,
                )
            )
        return predictions


def sampled(request_id: str, share: float) -> bool:
    """Whether a request is in a sample of this share; the same for all replicas and restarts."""
    if share >= 1:
        return True
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 < share
