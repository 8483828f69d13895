"""Which version answers a request: the champion, or the one on trial. Knows neither HTTP nor how versions come and go.

While a trial runs, nothing is answered from the cache: a trial compares what versions answer, and how fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from baton.errors import InvalidInput
from services.replica.answer_cache import AnswerCache
from services.replica.batching import Batcher, Prediction
from services.replica.trial import Trial


class Router:
    """Sends the requests of one replica to the champion's batcher, or to the trial while there is one."""

    def __init__(self, batcher: Batcher, cache: AnswerCache) -> None:
        self._batcher, self._cache = batcher, cache
        self.trial: Trial | None = None
        """The trial that runs in this replica."""

    @property
    def versions(self) -> tuple[int, ...]:
        """Versions that a request may choose: the champion's, and the one on trial."""
        numbers = (self._batcher.version, None if self.trial is None else self.trial.rollout.version)
        return tuple(number for number in numbers if number is not None)

    async def answer(
        self,
        inputs: Sequence[Any],
        options: Sequence[Any],
        *,
        answer_id: str,
        key: str,
        version: str = "",
        seconds: float | None = None,
        heavy: bool = False,
    ) -> Prediction:
        """Return the answer to one request.

        Args:
            inputs, options: as in `Batcher.submit`.
            answer_id: id of the answer, under which the log keeps what a shadow says to a copy.
            key: the same key is always answered by the same version while a trial runs.
            version: number of the version that must answer, of those that run here; empty for no matter which.
            seconds: how long the caller waits; None: as long as it takes.
            heavy: whether it takes many times what others take, as explanations do. Such a request is no part of a trial,
                which would take a version for late that is not.

        Raises:
            InvalidInput: ``version`` is not one that runs here.
            NotReady, Overloaded: as `Batcher.submit`.
        """
        trial = None if heavy else self.trial
        if version:
            return await self._chosen(version).submit(inputs, options)
        if trial is None:
            return await self._champion(inputs, options)
        taken = trial.takes(key)
        if trial.is_canary:
            if taken:
                return await trial.answer(self._batcher, inputs, options, seconds)
            return await trial.champion_answer(self._batcher, inputs, options)
        if not taken:
            return await self._batcher.submit(inputs, options)
        prediction = await trial.champion_answer(self._batcher, inputs, options)
        trial.mirror(self._batcher, answer_id, inputs, options, prediction.outputs)
        return prediction

    async def _champion(self, inputs: Sequence[Any], options: Sequence[Any]) -> Prediction:
        """Return the champion's answer: the one that it gave to the same request, if that is kept."""
        kept = self._cache.get(self._batcher.version, inputs, options)
        if kept is not None:
            return kept
        prediction = await self._batcher.submit(inputs, options)
        self._cache.put(inputs, options, prediction)
        return prediction

    def _chosen(self, version: str) -> Batcher:
        lanes = {str(self._batcher.version): self._batcher}
        if self.trial is not None:
            lanes[str(self.trial.rollout.version)] = self.trial.batcher
        if version not in lanes:
            raise InvalidInput(f"x-baton-version: {version!r} does not run here; allowed: {', '.join(lanes)}, or leave it out")
        return lanes[version]
