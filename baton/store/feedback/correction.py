"""One item of feedback before it is stored, and what becomes of several that have the same id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One item of feedback before it is stored.

    Of those with the same ``client_id`` from one sender, the last one counts; without an id, all are stored.
    """

    client_id: str | None
    answer_id: str | None = None
    """Id of the answer that it corrects (`LoggedPrediction.answer_id`); None if the sender does not name one."""
    request_id: str | None = None
    """Request id of that answer, which others may have as well; None if the sender does not give one."""
    position: int = 0
    """Position of the input in its request, from 0."""
    example: dict[str, Any]
    answer_fields: Collection[str] = ()
    """The fields of ``example`` that `FeedbackStore.changes` shows if another correction takes its place: no quoted text."""
    sender: str | None = None
    """Id of the API key that sent it; None without one."""
    actor: str | None = None
    """Name of that key."""
    audited_as: str | None = None
    """Fingerprint of the example's content, if the sender may label what the audit has drawn; else None."""


Key = tuple[str | None, str]
"""The sender and the client id of a correction."""


@dataclass(frozen=True, kw_only=True)
class StoredCorrection:
    """A stored correction that has a client id."""

    id: int
    example: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What becomes of some corrections."""

    added: Sequence[Correction]
    replaced: Sequence[tuple[StoredCorrection, Correction]]
    """Stored corrections with those that take their place."""
    accepted: int
    duplicates: int
    overwritten: int
    """How many took the place of another, of this batch or stored."""

    @property
    def growing(self) -> set[str | None]:
        """Return the senders that have more corrections afterwards."""
        more = Counter(correction.sender for correction in self.added)
        more.subtract(correction.sender for _, correction in self.replaced)
        return {sender for sender, count in more.items() if count > 0}

    @classmethod
    def of(cls, corrections: Sequence[Correction], stored: Mapping[Key, StoredCorrection]) -> Plan:
        """Of each client id the last correction counts. If it is what is stored already, all with that id are duplicates."""
        named: dict[Key, list[Correction]] = {}
        for correction in corrections:
            if correction.client_id is not None:
                named.setdefault((correction.sender, correction.client_id), []).append(correction)
        added = [correction for correction in corrections if correction.client_id is None]
        accepted, overwritten, replaced = len(added), 0, []
        for key, items in named.items():
            old = stored.get(key)
            if old is not None and old.example == items[-1].example:
                continue
            states = [*([] if old is None else [old.example]), *(item.example for item in items)]
            moves = sum(before != after for before, after in pairwise(states))
            accepted += moves + (old is None)
            overwritten += moves
            added.append(items[-1])
            if old is not None:
                replaced.append((old, items[-1]))
        order = {id(correction): place for place, correction in enumerate(corrections)}
        return cls(
            added=sorted(added, key=lambda correction: order[id(correction)]),
            replaced=replaced,
            accepted=accepted,
            duplicates=len(corrections) - accepted,
            overwritten=overwritten,
        )
