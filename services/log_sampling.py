"""Names of answers, which of them the prediction log keeps, and how often it is written.

Replicas name and write answers, the control plane waits for them: both go by this module.
"""

from __future__ import annotations

import hashlib
import re
import secrets

FLUSH_SECONDS = 1.0
"""Pause between two writes of a replica's prediction log."""

ANSWER_ID = re.compile("[0-9a-f]{32}")
"""The form of every id from `new_answer_id`."""

DRAW_DIGITS = 8
"""Hexadecimal digits of an answer's id that decide whether the log keeps it."""


def new_answer_id(request_id: str) -> str:
    """Return a unique id for the answer to a request: 32 hexadecimal digits.

    The first eight come from the request's own id, the others are random (96 bits). So an answer's id and the id of its request
    say alike whether the log keeps the answer.
    """
    return _draw(request_id) + secrets.token_hex(12)


def answer_sampled(answer_id: str, share: float) -> bool:
    """Return whether the log keeps the answer with this id when it keeps a ``share`` of all (0 to 1).

    All replicas agree, also after a restart, and a larger share contains every smaller one.
    """
    return bool(int(answer_id[:DRAW_DIGITS], 16) < share * 16**DRAW_DIGITS)


def request_sampled(request_id: str, share: float) -> bool:
    """Return whether the log keeps the answers to requests with this id; as `answer_sampled`."""
    return answer_sampled(_draw(request_id), share)


def _draw(request_id: str) -> str:
    return hashlib.blake2b(request_id.encode(), digest_size=DRAW_DIGITS // 2).hexdigest()
