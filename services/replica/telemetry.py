"""What one replica counts, and its way to Ray's agent, from where Prometheus has it.

A request pays for a few additions in memory. Once a second all totals are handed to Ray as gauges; docs/adr/0010 says why.
Outside Serve there is nobody to hand them to. Knows neither HTTP nor the registry.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from ray.util.metrics import Gauge

from baton.errors import BatonError, Overloaded
from baton.predict.predictor import Work
from services import metrics
from services.replica.batching import Answer, Batcher

logger = logging.getLogger("ray.serve")

FLUSH_SECONDS = 1.0
"""How often the totals are handed to Ray, which passes them on every ten seconds."""

Sample = tuple[str, tuple[str, ...], float]
"""A name that Prometheus knows (but for Ray's prefix), the values of its labels in their order, and the value."""


class Distribution:
    """The counts of one histogram."""

    def __init__(self, metric: metrics.Metric) -> None:
        self._metric = metric
        self._counts = [0] * (len(metric.buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._metric.buckets, value)] += 1
        self._sum += value

    def samples(self, labels: tuple[str, ...]) -> Iterator[Sample]:
        """Its cumulative buckets, the sum and the count."""
        bucket, total, count = self._metric.parts
        bounds = [*(f"{bound:g}" for bound in self._metric.buckets), metrics.INFINITY]
        for bound, below in zip(bounds, accumulate(self._counts), strict=True):
            yield bucket, (*labels, bound), below
        yield total, labels, self._sum
        yield count, labels, sum(self._counts)


class Telemetry:
    """The totals of one replica since it started. Lives on its event loop. ``exported``: there is a Ray to hand them to."""

    def __init__(self, model: str, replica: str, *, exported: bool) -> None:
        self._labels = (model, replica)
        self._exported = exported
        self._export_task: asyncio.Task[None] | None = None
        self._requests: Counter[tuple[str, str]] = Counter()
        self._errors: Counter[tuple[str, str]] = Counter()
        self._swaps = 0
        self._request_seconds = Distribution(metrics.REQUEST_SECONDS)
        self._queue_seconds = Distribution(metrics.QUEUE_SECONDS)
        self._inference_seconds = Distribution(metrics.INFERENCE_SECONDS)
        self._batch_inputs = Distribution(metrics.BATCH_INPUTS)
        self._batch_tokens = Distribution(metrics.BATCH_TOKENS)
        self.work = Work()
        """What the model's thread counts; every predictor that serves is given it."""
        for error in (BatonError, Overloaded):  # what alerts watch must be there before it happens, or its first rise is lost
            self._errors[str(error.status), error.title] = 0

    def answered(self, answer: Answer, seconds: float) -> None:
        """Count a prediction that took ``seconds`` from its request's arrival."""
        self._requests[str(answer.version), "2xx"] += 1
        self._request_seconds.observe(seconds)
        self._queue_seconds.observe(answer.queue_ms / 1000)
        self._inference_seconds.observe(answer.inference_ms / 1000)

    def failed(self, version: int | None, status: int, kind: str) -> None:
        """Count a request that was answered with the error ``kind`` (a title of `baton.errors`)."""
        self._requests[_version(version), f"{status // 100}xx"] += 1
        self._errors[str(status), kind] += 1

    def count_batch(self, inputs: int, tokens: int) -> None:
        """Count a batch."""
        self._batch_inputs.observe(inputs)
        self._batch_tokens.observe(tokens)

    def took_over(self, before: int | None, after: int) -> None:
        """Count a swap, unless it is the first version. Requests are told apart by these two versions from now on."""
        self._swaps += before not in (None, after)
        known = {key: count for key, count in self._requests.items() if key[0] in (_version(before), _version(after))}
        self._requests = Counter({(_version(after), status): 0 for status in ("2xx", "4xx", "5xx")} | known)

    def samples(self, version: int | None, waiting: int) -> Iterator[Sample]:
        """All totals, the ``version`` that serves and how many requests wait."""
        for (number, status), count in self._requests.items():
            yield _name(metrics.REQUESTS), (*self._labels, number, status), count
        for (code, kind), count in self._errors.items():
            yield _name(metrics.ERRORS), (*self._labels, code, kind), count
        for distribution in (
            self._request_seconds,
            self._queue_seconds,
            self._inference_seconds,
            self._batch_inputs,
            self._batch_tokens,
        ):
            yield from distribution.samples(self._labels)
        yield _name(metrics.MODEL_TOKENS), self._labels, self.work.tokens
        yield _name(metrics.PADDING_TOKENS), self._labels, self.work.padding
        yield _name(metrics.SWAPS), self._labels, self._swaps
        yield _name(metrics.SERVING_VERSION), self._labels, version or 0
        yield _name(metrics.QUEUE_DEPTH), self._labels, waiting

    def start(self, batcher: Batcher) -> None:
        """Hand everything to Ray from now on."""
        if self._exported:
            self._export_task = asyncio.create_task(self._export_forever(batcher))

    def close(self) -> None:
        """Stop that."""
        if self._export_task is not None:
            self._export_task.cancel()

    async def _export_forever(self, batcher: Batcher) -> None:
        """All totals each time: Ray's agent forgets a gauge that it is not told again."""
        gauges = {
            name: (Gauge(name, description=metric.help, tag_keys=labels), labels)
            for metric in metrics.METRICS
            if metric.plane is metrics.Plane.DATA
            for name, labels in metric.parts.items()
        }
        while True:
            try:
                for name, values, value in self.samples(batcher.version, batcher.waiting):
                    gauge, labels = gauges[name]
                    gauge.set(value, dict(zip(labels, values, strict=True)))
            except Exception:  # whatever it is, it concerns no request
                logger.exception("%s: metrics were not handed to Ray", self._labels[0])
            await asyncio.sleep(FLUSH_SECONDS)


def _version(number: int | None) -> str:
    return "none" if number is None else str(number)


def _name(metric: metrics.Metric) -> str:
    [name] = metric.parts
    return name
