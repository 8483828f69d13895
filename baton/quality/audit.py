"""The audit: which logged texts people are asked to label, whatever the model answered, and when their labels may judge.

Only such a sample is a fair judge from traffic: a correction exists because somebody saw an error of the champion, so that rows
of corrections are rows on which the champion is wrong. A keyed hash of the text decides, with a secret of the database, so that
nobody who sends requests can choose which of them are drawn. Knows neither tasks nor the registry.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

BATCH = 50
"""Texts in one batch, in the order in which they were drawn."""

COVERAGE = 0.9
"""Share of a batch that must be labelled before any of its labels judge. If people label mostly the errors of the champion, a
batch does not get there."""


class Audited(Protocol):
    """A text that was drawn."""

    @property
    def done(self) -> bool:
        """Whether it is labelled, or marked as undecidable."""


AuditedT = TypeVar("AuditedT", bound=Audited)


def is_drawn(secret: bytes, model: str, group: str, share: float) -> bool:
    """Return whether a text is in the audit of ``model``: a ``share`` of all texts is.

    ``group``: the fingerprint of the text (`Task.group`). HMAC-SHA256 (RFC 2104) of model and group, as a fraction of 2^64.
    """
    digest = hmac.digest(secret, f"{model}\0{group}".encode(), hashlib.sha256)
    return int.from_bytes(digest[:8], "big") < share * 2**64


def complete_batches(audited: Sequence[AuditedT]) -> Iterator[tuple[AuditedT, ...]]:
    """Yield the batches whose labels may judge: full ones of which at least `COVERAGE` is done.

    ``audited``: all drawn texts in the order of the draw.
    """
    for batch in batches(audited):
        if len(batch) == BATCH and sum(one.done for one in batch) >= COVERAGE * BATCH:
            yield batch


def batches(audited: Sequence[AuditedT]) -> Iterator[tuple[AuditedT, ...]]:
    """Yield all batches; the last one may still be growing."""
    for start in range(0, len(audited), BATCH):
        yield tuple(audited[start : start + BATCH])
