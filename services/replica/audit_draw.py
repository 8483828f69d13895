"""Draws logged inputs for the audit: a secret share of all texts, whatever the answer was. Writes nothing but what it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from baton.config.model_settings import ModelSettings
from baton.quality.audit import is_drawn
from baton.store.feedback.audit import AuditStore, Drawn
from baton.tasks import task_type
from baton.text.masks import MASK, group_keys
from baton.text.normal_form import fingerprint


class AuditDraw:
    """The draw of one replica. `draw` blocks: call it from a thread."""

    def __init__(self, settings: ModelSettings, store: AuditStore) -> None:
        self._model, self._share, self._store = settings.name, settings.feedback.audit, store
        self._task_cls = task_type(settings.task)
        self._masks = bool(settings.feedback.redact)
        self._keys = group_keys(settings.feedback.redact)
        self._secret: bytes | None = None

    def draw(self, inputs: Sequence[Mapping[str, Any]]) -> None:
        """Add those of the logged ``inputs`` to the audit that its secret picks and that are new.

        A text with masked parts is never drawn: the hidden part may decide the answer. Raises ``RegistryError`` if the database
        does not respond.
        """
        if self._share == 0:
            return
        if self._secret is None:
            self._secret = self._store.secret()
        drawn = [text for text in map(self._drawn, inputs) if text is not None]
        self._store.draw(self._model, drawn)

    def _drawn(self, values: Mapping[str, Any]) -> Drawn | None:
        item = self._task_cls.Input.model_construct(**values)
        group = self._task_cls.group(item)
        assert self._secret is not None
        if not is_drawn(self._secret, self._model, fingerprint(group), self._share):
            return None  # first, because it is so for almost all texts
        content = self._task_cls.content(item)  # in question answering the group has no question
        if self._masks and MASK in content:
            return None
        keys = self._keys(group).in_ledger(held_out=True)
        return Drawn(keys=keys, content_hash=fingerprint(content), input=values)
