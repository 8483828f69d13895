"""Settings of traces: where spans are sent, and of how many requests."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from baton.config.section import ConfigSection


class TracesSettings(ConfigSection):
    """Spans of requests and runs for a collector of OpenTelemetry."""

    endpoint: str = Field(
        description="Base URL of a collector that takes OTLP over HTTP, for example http://collector:4318; spans are sent to "
        "its /v1/traces."
    )
    sample: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the requests that is traced, of those without a `traceparent`. A caller that sends one decides "
        "by its flag. Runs are always traced.",
    )

    @field_validator("endpoint")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0  # a port out of range raises
        except ValueError:
            known = False
        if not known:
            raise ValueError("http://HOST:PORT or https://HOST, with a port from 1 to 65535 if there is one")
        if "@" in parts.netloc:  # it would be shown where the configuration is
            raise ValueError("no user and no password; the variable OTEL_EXPORTER_OTLP_HEADERS may hold a token")
        return value.rstrip("/")
