"""Freezes a model's declared data with all its feedback, and records the data set in the registry.

`training.data.datasets` freezes; this module brings it what the registry has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from baton.quality.audit import is_drawn
from baton.store.records import DatasetVersion
from baton.tasks import task_type
from baton.wording import counted
from training.context import Context
from training.data import datasets


def freeze(context: Context) -> datasets.Dataset:
    """Freeze the base data and all feedback so far, and record version and splits in the registry before training starts.

    Raises as `training.data.datasets.freeze`.
    """
    settings, registry, feedback = context.settings, context.registry, context.declared.feedback
    newest = registry.datasets.latest(settings.name)
    secret = registry.audit.secret()
    history = datasets.History(
        ledger=registry.datasets.ledger(settings.name),
        previous=newest.number if newest else None,
        feedback=registry.feedback.all(settings.name),
        audited=registry.audit.items(settings.name),
        classes=_classes(context, newest),
        is_drawn=lambda group: is_drawn(secret, settings.name, group, feedback.audit),
    )
    dataset = datasets.freeze(  # the declared settings decide who judges, whatever the run overrides
        settings.name,
        task_type(settings.task),
        settings.data,
        context.storage,
        history,
        redact=feedback.redact,
        declared=context.declared.data,
    )
    version = replace(dataset.version, remarks=(*dataset.version.remarks, *_doubts(context, dataset.version)))
    return replace(dataset, version=registry.datasets.add(settings.name, version, dataset.splits))


def _doubts(context: Context, version: DatasetVersion) -> Iterator[str]:
    """Yield what the gate will hold against the data set: told before anything trains, not afterwards."""
    wanted, rows = context.declared.gate.min_rows, version.holdout_rows
    if rows < wanted:
        yield (
            f"the holdout has {counted(rows, 'row')}, and the gate asks for {wanted} texts that differ (gate.min_rows): no "
            "version can take over until there are more. Add rows; those that have a split keep it, whatever data.holdout says"
        )


def _classes(context: Context, newest: DatasetVersion | None) -> set[str]:
    """Return the labels that ever were classes, in the form of `Task.labels_in`."""
    if newest is None:
        return set()
    task_cls = task_type(context.settings.task)
    return {*newest.classes, *task_cls(newest.labels, max_length=8).answer_labels}  # Baton 0.1 recorded the labels alone
