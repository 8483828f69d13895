"""A collector of OpenTelemetry: it takes spans over HTTP (OTLP) and keeps them."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from tests.cli.test_cli import serving


@dataclass(frozen=True)
class Received:
    """A span as it arrived."""

    name: str
    trace: str
    id: str
    parent: str
    """Empty for the first span of a trace."""
    begin: float
    end: float
    facts: dict[str, Any]
    resource: dict[str, Any]
    failed: bool
    of_server: bool


@dataclass
class Collector:
    """What arrived."""

    spans: list[Received] = field(default_factory=list)

    def named(self, name: str) -> Received:
        [found] = [span for span in self.spans if span.name == name]
        return found

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http", "nothing to start or to end"
        assert (scope["method"], scope["path"]) == ("POST", "/v1/traces")
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message.get("more_body", False)
        if (b"content-encoding", b"gzip") in scope["headers"]:
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scoped in resource.scope_spans:
                self.spans += [_received(span, _facts(resource.resource.attributes)) for span in scoped.spans]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector and its URL."""
    collector = Collector()
    with serving(collector) as url:
        yield collector, url


def _facts(attributes: Any) -> dict[str, Any]:
    return {it.key: getattr(it.value, it.value.WhichOneof("value")) for it in attributes}


def _received(span: WireSpan, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        begin=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
        facts=_facts(span.attributes),
        resource=resource,
        failed=span.status.code == 2,
        of_server=span.kind == WireSpan.SPAN_KIND_SERVER,
    )
