"""Metrics that a replica counts, and their export to Prometheus through Ray's agent.

A request costs a few additions in memory. Once a second all totals are passed to Ray as gauges (docs/adr/0010 has the reasons).
Outside Ray Serve nothing is exported. Knows neither HTTP nor the registry.
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
from services.replica.batching import Batcher, Prediction

logger = logging.getLogger("ray.serve")

FLUSH_SECONDS = 1.0
"""Seconds between two exports to Ray's agent. Ray passes them on every ten seconds: exporting more often would not help."""

Sample = tuple[str, tuple[str, ...], float]
"""A name as in Prometheus, without Ray's prefix; the values of its labels, in the order of their definition; the value."""


class Histogram:
    """The bucket counts, the sum and the count of one histogram."""

    def __init__(self, metric: metrics.Metric) -> None:
        self._metric = metric
        self._counts = [0] * (len(metric.buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._metric.buckets, value)] += 1
        self._sum += value

    def samples(self, labels: tuple[str, ...]) -> Iterator[Sample]:
        """Yield the cumulative buckets, the sum and the count."""
        bucket, total, count = self._metric.parts
        bounds = [*(f"{bound:g}" for bound in self._metric.buckets), metrics.INFINITY]
        for bound, below in zip(bounds, accumulate(self._counts), strict=True):
            yield bucket, (*labels, bound), below
        yield total, labels, self._sum
        yield count, labels, sum(self._counts)


class Telemetry:
    """Counts what one replica does, from its start on. Lives on the replica's event loop."""

    def __init__(self, model: str, replica: str, *, exported: bool) -> None:
        """``exported``: whether `start` exports to Ray's agent; False outside Ray Serve."""
        self._labels = (model, replica)
        self._exported = exported
        self._export_task: asyncio.Task[None] | None = None
        self._requests: Counter[tuple[str, str]] = Counter()
        self._errors: Counter[tuple[str, str]] = Counter()
        self._swaps = 0
        self._abstentions = 0
        self._request_seconds = Histogram(metrics.REQUEST_SECONDS)
        self._queue_seconds = Histogram(metrics.QUEUE_SECONDS)
        self._inference_seconds = Histogram(metrics.INFERENCE_SECONDS)
        self._batch_inputs = Histogram(metrics.BATCH_INPUTS)
        self._batch_tokens = Histogram(metrics.BATCH_TOKENS)
        self.work = Work()
        """Token counts of the model's thread; every version that serves adds to the same object."""
        # `rate` misses the first rise of a series that starts above 0: export the errors that alerts watch as 0 from the start.
        for error in (BatonError, Overloaded):
            self._errors[str(error.status), error.title] = 0

    def count_prediction(self, prediction: Prediction, seconds: float) -> None:
        """Count a request that was answered with ``prediction``, ``seconds`` after it arrived."""
        self._requests[str(prediction.version), "2xx"] += 1
        self._request_seconds.observe(seconds)
        self._queue_seconds.observe(prediction.queue_ms / 1000)
        self._inference_seconds.observe(prediction.inference_ms / 1000)

    def count_abstentions(self, answers: int) -> None:
        """Count answers that were too unsure to act on."""
        self._abstentions += answers

    def count_error(self, version: int | None, status: int, title: str, count: int = 1) -> None:
        """Count requests that were answered with an error while ``version`` served. ``title``: of a class in `baton.errors`."""
        self._requests[_version_label(version), f"{status // 100}xx"] += count
        self._errors[str(status), title] += count

    def count_batch(self, inputs: int, tokens: int) -> None:
        """Count a batch by its number of inputs and of estimated tokens."""
        self._batch_inputs.observe(inputs)
        self._batch_tokens.observe(tokens)

    def count_takeover(self, before: int | None, after: int) -> None:
        """Note that version ``after`` serves from now on, and count a swap if another version served before.

        Request counts of older versions are dropped, so that a replica exports two versions at most.
        """
        if before is not None and before != after:
            self._swaps += 1
        kept = (_version_label(before), _version_label(after))
        counts = {key: count for key, count in self._requests.items() if key[0] in kept}
        self._requests = Counter({(_version_label(after), status): 0 for status in ("2xx", "4xx", "5xx")} | counts)

    def samples(self, version: int | None, waiting: int) -> Iterator[Sample]:
        """Yield all totals, and as gauges the ``version`` that serves and the number of ``waiting`` requests."""
        for (number, status), count in self._requests.items():
            yield _name(metrics.REQUESTS), (*self._labels, number, status), count
        for (code, title), count in self._errors.items():
            yield _name(metrics.ERRORS), (*self._labels, code, title), count
        for histogram in (
            self._request_seconds,
            self._queue_seconds,
            self._inference_seconds,
            self._batch_inputs,
            self._batch_tokens,
        ):
            yield from histogram.samples(self._labels)
        yield _name(metrics.MODEL_TOKENS), self._labels, self.work.tokens
        yield _name(metrics.PADDING_TOKENS), self._labels, self.work.padding
        yield _name(metrics.SWAPS), self._labels, self._swaps
        yield _name(metrics.ABSTENTIONS), self._labels, self._abstentions
        yield _name(metrics.SERVING_VERSION), self._labels, version or 0
        yield _name(metrics.QUEUE_DEPTH), self._labels, waiting

    def start(self, batcher: Batcher) -> None:
        """Export all metrics to Ray's agent from now on, once a second."""
        if self._exported:
            self._export_task = asyncio.create_task(self._export_forever(batcher))

    def close(self) -> None:
        """Stop the export."""
        if self._export_task is not None:
            self._export_task.cancel()

    async def _export_forever(self, batcher: Batcher) -> None:
        """Export all totals every time, changed or not: Ray's agent drops a gauge that is not set again."""
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
            except Exception:  # a failed export must not stop the next ones
                logger.exception("%s: metrics could not be exported to Ray's agent; retrying", self._labels[0])
            await asyncio.sleep(FLUSH_SECONDS)


def _version_label(number: int | None) -> str:
    return "none" if number is None else str(number)


def _name(metric: metrics.Metric) -> str:
    [name] = metric.parts
    return name
