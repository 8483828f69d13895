"""Settings of notices: which events Baton tells which URL."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from baton.config.section import ConfigSection
from baton.store.records import HistoryKind

NOTABLE = (
    HistoryKind.PROMOTED,
    HistoryKind.ROLLED_BACK,
    HistoryKind.REFUSED,
    HistoryKind.INCONCLUSIVE,
    HistoryKind.RUN_FAILED,
    HistoryKind.ROLLOUT_FAILED,
    HistoryKind.RETRAIN_PAUSED,
    HistoryKind.DRIFT,
)
"""What people want to hear of without asking for it."""

SHORTEST_SECRET = 16
"""Characters: fewer could be guessed."""

BASE64_PREFIX = "whsec_"
"""Begins secrets that are written in base64, as Standard Webhooks does. Others are taken as they are."""


class NotifySettings(ConfigSection):
    """One URL that is told what happens to models."""

    url: str = Field(description="Receives a POST for each event (docs/notices.md): http:// or https://.")
    events: tuple[HistoryKind, ...] = Field(
        NOTABLE, description="Which entries of the history; by default those that people want to hear of."
    )
    secret: str | None = Field(
        None,
        min_length=SHORTEST_SECRET,
        description="Signs each request (Standard Webhooks), so that the receiver knows that Baton sent it.",
    )

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0  # a port out of range raises
        except ValueError:
            known = False
        if not known:
            raise ValueError("http://HOST/… or https://HOST/…, with a port from 1 to 65535 if there is one")
        return value

    @field_validator("events")
    @classmethod
    def _some(cls, value: tuple[HistoryKind, ...]) -> tuple[HistoryKind, ...]:
        if not value:
            raise ValueError("at least one event; leave the key out for the default")
        return value

    @field_validator("secret")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None and value.startswith(BASE64_PREFIX):
            try:
                base64.b64decode(value.removeprefix(BASE64_PREFIX), validate=True)
            except ValueError:
                raise ValueError(f"base64 behind {BASE64_PREFIX}, or a secret that does not begin so") from None
        return value

    @property
    def key(self) -> bytes | None:
        """The key of signatures; None without a secret."""
        if self.secret is None:
            return None
        if self.secret.startswith(BASE64_PREFIX):
            return base64.b64decode(self.secret.removeprefix(BASE64_PREFIX))
        return self.secret.encode()

    @property
    def shown(self) -> str:
        """The URL without what may be secret in it: user, path and query."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
        return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}/…"
