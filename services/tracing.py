"""Spans for a collector of OpenTelemetry, made from times that are known, and sent in the background.

Whether something is traced is decided before anything of it is made: what is not traced costs a random number. The context of
callers is W3C Trace Context (https://www.w3.org/TR/trace-context/). Imports OpenTelemetry only if a tracer is made.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from baton import installation
from baton.config.traces_settings import TracesSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
"""The header ``traceparent``: version, trace id, id of the parent's span, flags. Later versions may append something."""

SAMPLED = 0x01
"""The flag by which a caller says that it traces."""

SEND_SECONDS = 5.0
"""How long a collector may take to accept spans. Those that it does not accept are lost."""

Attributes = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The span of a caller, from its header ``traceparent``."""

    trace_id: int
    span_id: int
    sampled: bool


NOBODY = Caller(trace_id=0, span_id=0, sampled=True)
"""The caller of what begins a trace."""


def caller_of(traceparent: str) -> Caller | None:
    """Return the caller whose header is given; None if it is missing or malformed, which the standard treats alike."""
    found = TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    return Caller(trace_id=int(found[1], 16), span_id=int(found[2], 16), sampled=bool(int(found[3], 16) & SAMPLED))


@dataclass(frozen=True, kw_only=True)
class Span:
    """What was done between two points in time, and the parts of it. Times are seconds since the epoch."""

    name: str
    begin: float
    end: float
    attributes: Attributes = field(default_factory=dict)
    parts: Sequence[Span] = ()
    error: str | None = None
    """Why it failed; None if it did not."""
    of_server: bool = False
    """Whether it answers a request."""


class Tracer:
    """Sends the spans of one process. Thread-safe."""

    def __init__(self, settings: TracesSettings, attributes: Attributes, exporter: SpanExporter | None = None) -> None:
        """
        Args:
            settings: where and how many.
            attributes: of all spans of this process, after OpenTelemetry's conventions for resources. What the environment
                says (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) takes precedence.
            exporter: instead of one to the endpoint.
        """
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self._sample = settings.sample
        own = Resource({"service.name": "baton", "service.version": installation.version(), **attributes})
        resource = own.merge(OTELResourceDetector().detect())
        # what is sent was chosen before: by `choose`, or because runs are always traced
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        exporter = exporter or OTLPSpanExporter(endpoint=f"{settings.endpoint}/v1/traces", timeout=SEND_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("baton", installation.version())
        # the exporter says of each batch that it is lost, and may quote the collector's answer
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def choose(self, traceparent: str) -> Caller | None:
        """Return the caller whose request is traced; None if it is not. ``traceparent``: the header, empty without one."""
        caller = caller_of(traceparent) if traceparent else None
        if caller is not None:
            return caller if caller.sampled else None
        return NOBODY if random.random() < self._sample else None

    def send(self, span: Span, caller: Caller = NOBODY) -> None:
        """Queue a span with its parts; if the queue is full it is lost. ``caller``: the parent."""
        self._start(span, _context(caller))

    def close(self) -> None:
        """Send what is queued. Blocks for at most about `SEND_SECONDS`."""
        self._provider.shutdown()

    def _start(self, span: Span, context: Context | None) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        kind = SpanKind.SERVER if span.of_server else SpanKind.INTERNAL
        begun = self._tracer.start_span(
            span.name, context, kind, dict(span.attributes), start_time=_nanoseconds(span.begin), record_exception=False
        )
        if span.error is not None:
            begun.set_status(Status(StatusCode.ERROR, span.error))
        inner = set_span_in_context(begun, context)
        for part in span.parts:
            self._start(part, inner)
        begun.end(_nanoseconds(span.end))


def _context(caller: Caller) -> Context | None:
    if caller is NOBODY:
        return None
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    flags = TraceFlags(SAMPLED if caller.sampled else 0)
    return set_span_in_context(NonRecordingSpan(SpanContext(caller.trace_id, caller.span_id, True, flags)))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
