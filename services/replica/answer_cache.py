"""Answers of the last requests, for clients that send the same again. Off by default (``serving.cache``)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from baton.tasks.checks import text_length
from services.replica.batching import Prediction

LARGEST = 64
"""Maximum of inputs in a request whose answer is kept: large batches are seldom sent twice, and would displace many others."""

LONGEST = 16_384
"""Maximum of characters in a request whose answer is kept, so that the memory that the answers take is bounded."""


class AnswerCache:
    """The answers to the last ``most`` inputs, those that were asked for last being kept longest.

    An answer counts for the same inputs, the same options and the same version only. Lives on the replica's event loop.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = 0
        self._predictions: OrderedDict[Hashable, Prediction] = OrderedDict()

    def get(self, version: int | None, inputs: Sequence[Any], options: Sequence[Any]) -> Prediction | None:
        """Return the answer of ``version`` if it is kept, with the times of this request: none."""
        if not self._predictions:
            return None
        key = (version, *inputs, *options)
        prediction = self._predictions.get(key)
        if prediction is None:
            return None
        self._predictions.move_to_end(key)
        return replace(prediction, queue_ms=0.0, inference_ms=0.0, steps=None)

    def put(self, inputs: Sequence[Any], options: Sequence[Any], prediction: Prediction) -> None:
        """Keep an answer, unless its request is large."""
        if len(inputs) > min(LARGEST, self._most) or sum(map(text_length, inputs)) > LONGEST:
            return
        key = (prediction.version, *inputs, *options)
        if key not in self._predictions:
            self._kept += len(inputs)
        self._predictions[key] = prediction
        while self._kept > self._most:
            _, oldest = self._predictions.popitem(last=False)
            self._kept -= len(oldest.outputs)
