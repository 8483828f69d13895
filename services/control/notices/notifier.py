"""Finds entries of the history that receivers want to hear of, and sends them until they are received.

Each entry is written down before it is sent, so that none is lost when a control plane is killed; one that was sent but not
ticked off is sent again, with the same id.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from baton.config.notify_settings import NotifySettings
from baton.store.notice_store import Notice
from baton.store.records import PAGE, HistoryEntry, HistoryKind
from baton.store.registry import Registry
from services.control.failures import log_failures
from services.control.notices import webhook

logger = logging.getLogger("ray.serve")

FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(hours=1)
"""Pauses between two tries: each is twice the one before, up to an hour."""

MOST_DOUBLINGS = 20
"""More would be beyond what a `timedelta` holds."""

PATIENCE = timedelta(days=3)
"""How long a notice is tried again: over a weekend."""

LOOK_AGAIN_SECONDS = 60.0
"""After this time the history is read though nothing seems new: of two entries that are written at once, the one with the lower
id may be committed last."""

AT_ONCE = 20
"""Maximum number of notices that one receiver gets in one round, one after the other."""


class Notifier:
    """Sends the notices of one receiver. Its state is in the registry, but for what it has looked at already."""

    def __init__(self, receiver: NotifySettings, registry: Registry) -> None:
        self._receiver, self._registry = receiver, registry
        self._name = name_of(receiver)
        self._looked_at: object = None
        """The models, the mark of the history and the period of `LOOK_AGAIN_SECONDS` when it was read last."""

    async def tell(self, models: Collection[str]) -> None:
        """Write down what is new in the history of ``models``, and send what is due, one after the other."""
        with log_failures(f"telling {self._receiver.shown}"):
            for notice in await asyncio.to_thread(self._collect, sorted(models)):
                await self._send(notice)

    def _collect(self, models: list[str]) -> list[Notice]:
        period = time.monotonic() // LOOK_AGAIN_SECONDS
        store, mark = self._registry.notices, (models, self._registry.history.mark(), period)
        for model in models if mark != self._looked_at else []:
            since = store.known_since(self._name, model)
            entries = self._registry.history.list(model, limit=PAGE)
            wanted = [entry for entry in reversed(entries) if entry.at > since and entry.what in self._receiver.events]
            store.add([_notice(self._name, model, entry) for entry in wanted])
        self._looked_at = mark
        return store.due(self._name, models, AT_ONCE)

    async def _send(self, notice: Notice) -> None:
        receiver, store, now = self._receiver, self._registry.notices, datetime.now(UTC)
        try:
            await webhook.send(receiver.url, receiver.key, notice.event, now, notice.body)
        except webhook.Refused as refused:
            pause = min(FIRST_PAUSE * 2 ** min(notice.tries, MOST_DOUBLINGS), LONGEST_PAUSE)
            given_up = refused.final or now + pause - notice.created_at > PATIENCE
            logger.warning(
                "control: %s did not take %s of %s: %s; %s",
                receiver.shown,
                notice.event,
                notice.model,
                refused,
                "given up" if given_up else f"again in {pause.total_seconds():g} s",
                extra={"model": notice.model},
            )
            if not given_up:
                await asyncio.to_thread(store.again, notice, now + pause)
                return
        await asyncio.to_thread(store.done, notice)


def name_of(receiver: NotifySettings) -> str:
    """Return the name of a receiver in the registry, which does not tell its URL."""
    return hashlib.sha256(receiver.url.encode()).hexdigest()


def _notice(receiver: str, model: str, entry: HistoryEntry) -> Notice:
    # why a run failed may quote rows of data, which are not for everybody who hears of it
    text = f"A run of {model} failed; `baton runs {model}` says why" if entry.what == HistoryKind.RUN_FAILED else entry.text
    data = {"model": model, "version": entry.version, "text": text, "details": dict(entry.details)}
    body = {"type": entry.what, "timestamp": entry.at.isoformat(), "data": data}
    # after a backup is restored, other entries get ids that were used before
    event = f"{entry.id}-{entry.at.astimezone(UTC):%Y%m%d%H%M%S}"
    return Notice(receiver=receiver, event=event, model=model, body=body, tries=0, created_at=datetime.now(UTC))
