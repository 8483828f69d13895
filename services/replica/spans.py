"""The spans of one request: how long it waited, was tokenized, went through the model, and was decoded.

Texts and labels are in none of them.
"""

from __future__ import annotations

import time

from services.replica.batching import Prediction, Steps
from services.replica.response import Response
from services.tracing import Caller, Span, Tracer

SERVER_ERROR = 500
"""Statuses from here on are errors of the server, which alone make a span of a server one that failed."""


class RequestSpan:
    """Collects what is known of a request that is traced, and sends it at its end."""

    def __init__(self, tracer: Tracer, caller: Caller, *, model: str, method: str, path: str) -> None:
        self._tracer, self._caller = tracer, caller
        self._facts: dict[str, str | int | float | bool] = {
            "http.request.method": method,
            "url.path": path,
            "baton.model": model,
        }
        self._began = time.perf_counter()
        self.prediction: Prediction | None = None
        """The answer, once there is one."""

    def end(self, response: Response) -> None:
        """Send the spans of the request, which ``response`` answered."""
        offset = time.time() - time.perf_counter()
        facts = self._facts | {"http.response.status_code": response.status}
        if response.version is not None:
            facts["baton.version"] = response.version
        parts: list[Span] = []
        if self.prediction is not None:
            facts["baton.inputs"] = len(self.prediction.outputs)
            parts = _parts(self.prediction.steps, offset) if self.prediction.steps is not None else []
        failed = f"status {response.status}" if response.status >= SERVER_ERROR else None
        name = f"{facts['http.request.method']} /models/{facts['baton.model']}"
        self._tracer.send(
            Span(
                name=name,
                begin=self._began + offset,
                end=time.perf_counter() + offset,
                attributes=facts,
                parts=parts,
                error=failed,
                of_server=True,
            ),
            self._caller,
        )


def _parts(steps: Steps, offset: float) -> list[Span]:
    """Return the parts of an answer. The batch is shared with other requests, which have the same times in their traces."""
    tokenized, *_ = steps.ended_at
    passed = steps.ended_at[-2] if len(steps.ended_at) > 2 else tokenized  # the last step decodes
    edges = (steps.queued_at, steps.started_at, tokenized, passed, steps.ended_at[-1])
    batch = {"baton.batch.inputs": steps.inputs}
    passes = {**batch, "baton.passes": len(steps.ended_at) - 2}
    return [
        Span(name=name, begin=begin + offset, end=end + offset, attributes=attributes)
        for name, begin, end, attributes in (
            ("queue", edges[0], edges[1], {}),
            ("tokenize", edges[1], edges[2], batch),
            ("forward", edges[2], edges[3], passes),
            ("decode", edges[3], edges[4], batch),
        )
    ]
