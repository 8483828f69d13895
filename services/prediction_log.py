"""What a replica answered, written to the registry off the request path: sampled, masked, in batches. Never fails a request."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from baton.config import FeedbackSettings
from baton.errors import BatonError
from baton.feedback import FeedbackStore
from baton.records import LoggedPrediction
from baton.tasks import AnyTask
from baton.tasks.base import text_length

logger = logging.getLogger("ray.serve")

FLUSH_SECONDS = 1.0
"""How long an answer may wait to be written, and so how soon a correction may name it by its request id alone."""

BATCH = 500
MOST_WAITING = 20_000
"""Answers in memory while the database does not answer or does not keep up; the oldest are dropped."""

MASK = "█"
"""Stands for each character of what `redact` matches, so that the offsets of answers stay right."""

LONGEST_ID = 128
"""Characters of a request id that the log has room for; answers with longer ones are not kept."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One request with its answer, as it waits to be written."""

    request_id: str
    version: int
    inputs: Sequence[Any]
    options: Sequence[Any]
    outputs: Sequence[Any]
    at: datetime


class PredictionLog:
    """The log of one model's replica. Lives on its event loop; `add` is all that a request pays for."""

    def __init__(self, model: str, task: AnyTask, settings: FeedbackSettings, store: FeedbackStore) -> None:
        self._model, self._task, self._store = model, task, store
        self._share = settings.log
        self._mask = masker(settings.redact)
        self._waiting: deque[Answered] = deque()
        self._writer: asyncio.Task[None] | None = None
        self.dropped = 0
        """Answers lost so far: the database was down for too long."""

    def add(self, request_id: str, version: int, inputs: Sequence[Any], options: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Keep an answer to be written soon, if the sample has it."""
        if not sampled(request_id, self._share) or len(request_id) > LONGEST_ID:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(
            Answered(
                request_id=request_id,
                version=version,
                inputs=inputs,
                options=options,
                outputs=outputs,
                at=datetime.now(UTC),
            )
        )
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_soon())

    async def close(self) -> None:
        """Write what waits. What the database does not take now is lost."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])
        await self._flush()

    async def _write_soon(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(FLUSH_SECONDS)
                await self._flush()
        finally:
            self._writer = None

    async def _flush(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                await asyncio.shield(asyncio.to_thread(self._write, batch))
            except BatonError as error:
                self._waiting.extendleft(reversed(batch[: MOST_WAITING - len(self._waiting)]))
                logger.warning("%s: %d answers wait to be logged: %s", self._model, len(self._waiting), error)
                return

    def _write(self, batch: Sequence[Answered]) -> None:
        self._store.log([prediction for answered in batch for prediction in self._predictions(answered)])

    def _predictions(self, answered: Answered) -> list[LoggedPrediction]:
        predictions = []
        for position, (item, options, output) in enumerate(
            zip(answered.inputs, answered.options, answered.outputs, strict=True)
        ):
            masked = self._mask(item)
            label, confidence = self._task.summary(output, options)
            predictions.append(
                LoggedPrediction(
                    model=self._model,
                    request_id=answered.request_id,
                    position=position,
                    version=answered.version,
                    input=masked.model_dump(mode="json"),
                    output=self._task.brief(output, masked).model_dump(mode="json"),
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


def masker(patterns: Sequence[str]) -> Callable[[Any], Any]:
    """A function that masks what any of ``patterns`` matches in the texts of an input, character by character."""
    if not patterns:
        return lambda item: item
    found = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))

    def mask(item: Any) -> Any:
        texts = {name: value for name, value in item if isinstance(value, str)}
        masked = {name: found.sub(lambda match: MASK * len(match[0]), value) for name, value in texts.items()}
        return item.model_copy(update=masked)

    return mask
