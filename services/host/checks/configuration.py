"""What is odd about a configuration that has no mistakes: `baton config check` and `baton apply` tell it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress

from baton.config.base_models import check_architecture, find_local
from baton.config.file import BatonConfig
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, ConfigError
from baton.store import database
from baton.store.registry import Registry
from baton.tasks import task_type
from services.host.checks import data
from services.host.checks.finding import Level
from services.host.checks.startup_warnings import task_changes


def warnings(config: BatonConfig) -> Iterator[str]:
    """Yield a sentence for each thing that is missing on this machine, never happens, or contradicts the database.

    The database is asked if it is there and answers.
    """
    for finding in (*data.data_files(config), *data.base_models(config)):
        if finding.level is not Level.OK:
            yield finding.text
    for settings in config.models:
        yield from [*unfit_base_model(settings), *idle_triggers(settings)]
    if not database.exists(config.database):
        return
    with suppress(BatonError), closing(Registry(config.database, read_only=True)) as registry:  # a driver may be missing
        registry.check()
        yield from [*task_changes(config, registry), *renamed_models(config, registry)]


def unfit_base_model(settings: ModelSettings) -> Iterator[str]:
    """Yield a sentence if the base model is on this machine and cannot learn the task."""
    base = find_local(settings.base_model)
    if base is not None:
        try:
            check_architecture(base, settings.base_model, task_type(settings.task).auto_model)
        except ConfigError as error:
            yield f"{settings.name}: {error}"


def idle_triggers(settings: ModelSettings) -> Iterator[str]:
    """Yield a sentence for each trigger of automatic retraining that other settings keep from ever firing."""
    retrain, feedback, name = settings.retrain, settings.feedback, settings.name
    measured = {"on_drift": retrain.on_drift, "live_f1_below": retrain.live_f1_below is not None}
    corrected = {"after_examples": retrain.after_examples is not None, **measured}
    for key in (key for key, is_set in corrected.items() if is_set):
        if not feedback.accept:
            yield f"{name}: retrain.{key} never starts a run: it waits for corrections, and feedback.accept is false"
        elif feedback.log == 0 and key in measured:
            yield f"{name}: retrain.{key} never starts a run: it is measured on logged answers, and feedback.log is 0"


def renamed_models(config: BatonConfig, registry: Registry) -> Iterator[str]:
    """Yield a sentence if a model may have been renamed: one with versions is not declared, and one without versions is.

    Raises ``RegistryError``.
    """
    known, declared = set(registry.declared()), {settings.name for settings in config.models}
    gone = [name for name in sorted(known - declared) if registry.versions.list(name, limit=1)]
    new = [name for name in sorted(declared) if name not in known or not registry.versions.list(name, limit=1)]
    if gone and new:
        yield (
            f"not declared, but with versions in the database: {', '.join(gone)}; declared without versions: {', '.join(new)}. "
            f"If one got another name, `baton rename {gone[0]} {new[0]}` takes its versions, history and feedback along"
        )
