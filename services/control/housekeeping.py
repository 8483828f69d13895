"""Deletes what nothing needs any more: logged answers past their retention, and checkpoints that killed runs left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from baton.artifacts.storage import Storage
from baton.config.file import BatonConfig
from baton.config.model_settings import FeedbackSettings
from baton.errors import NotFound
from baton.store.registry import Registry
from services.control.failures import log_failures

CHECKPOINT_GRACE = timedelta(minutes=10)
"""How long the checkpoints of an ended run are left to its driver, which deletes them itself unless it is killed."""


class Housekeeping:
    """Deletes old answers and checkpoints. Methods block: call them from a thread."""

    def __init__(self, config: Callable[[], BatonConfig], registry: Registry, storage: Storage) -> None:
        """``config``: returns the configuration in effect."""
        self._config = config
        self._registry = registry
        self._storage = storage

    def run(self) -> None:
        """Delete old answers, then old checkpoints. Log errors instead of raising them."""
        with log_failures("deleting old answers"):
            self.delete_old_answers()
        with log_failures("deleting the checkpoints of ended runs"):
            self.delete_old_checkpoints()

    def delete_old_answers(self) -> None:
        """Delete logged answers past their retention, also those of shadows, the texts of the audit that nobody has labelled
        since, the answers that corrections had before they were replaced, and what old canaries and shadows found.

        Models that left the configuration keep the retention of their last settings.
        """
        days = {
            name: settings.get("feedback", {}).get("retention_days", FeedbackSettings().retention_days)
            for name, settings in self._registry.declared().items()
        }
        days |= {settings.name: settings.feedback.retention_days for settings in self._config().models}
        for name, retention in days.items():
            with log_failures(f"deleting old answers of {name}", model=name):
                before = datetime.now(UTC) - timedelta(days=retention)
                self._registry.predictions.forget(name, before)
                self._registry.audit.forget(name, before)
                self._registry.feedback.forget_changes(name, before)
                self._registry.rollouts.forget_evidence(name, before)

    def delete_old_checkpoints(self) -> None:
        """Delete the checkpoints of runs that ended more than `CHECKPOINT_GRACE` ago; leave unknown directories alone."""
        for run_id in self._storage.run_ids():
            with contextlib.suppress(NotFound):
                ended = self._registry.runs.get(run_id).finished_at
                if ended is not None and datetime.now(UTC) - ended > CHECKPOINT_GRACE:
                    self._storage.remove_run(run_id)
