"""What differs between the configuration that a service runs and another one, and what it takes to apply each difference.

Pure: reads no file and talks to no service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from baton.config.file import BatonConfig
from baton.config.model_settings import ModelSettings
from baton.config.notify_settings import SHORTEST_SECRET
from baton.urls import without_passwords

KEPT = ("database", "storage", "notify")
"""Keys that a service keeps until it is restarted, and with them all others: where everything is, and what holds secrets, whose
old values nobody else knows.
"""

MASK = "*" * SHORTEST_SECRET
"""What is shown of a secret: as long as one must be, so that what is shown is a configuration again."""

REPLICA_KEYS = (
    "name",
    "task",
    "base_model",
    "serving",
    "feedback.log",
    "feedback.audit",
    "feedback.redact",
    "rollout.max_latency_ratio",
    "training.max_length",
    "training.stride",
    "training.long_text",
    "training.generation",
)
"""What a replica reads of the settings of its model (`services.replica`); only the control plane and runs read the rest."""

SCALING_KEY = "serving.replicas"
"""The number of replicas, which the replicas themselves do not read."""


class Effect(StrEnum):
    """What it takes to apply a changed key."""

    AT_ONCE = "at once"
    """Only the control plane and later runs read it: nothing is replaced."""
    SCALES = "scales"
    """Replicas are added or removed."""
    REPLACES = "replaces"
    """Replicas are replaced, one after another."""
    RESTART = "restart"
    """The service must be stopped and started."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A key with two values."""

    key: str
    """Dotted; of a model's key the part after the model."""
    old: Any
    """The plain value that the service uses; None: not set."""
    new: Any
    effect: Effect


class Kind(StrEnum):
    """What happened to a model."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, kw_only=True)
class ModelChange:
    """A model that differs."""

    model: str
    kind: Kind
    changes: tuple[Change, ...] = ()
    """Of a changed model."""

    @property
    def moves_replicas(self) -> bool:
        """Whether replicas that run now may end."""
        return any(change.effect in (Effect.SCALES, Effect.REPLACES) for change in self.changes)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a configuration differs from the one that a service uses."""

    models: tuple[ModelChange, ...]
    """What can be applied while the service runs, in the order of the new configuration; removed models last."""
    restart: tuple[Change, ...]
    """What needs a restart."""

    def __bool__(self) -> bool:
        return bool(self.models or self.restart)

    @property
    def kept(self) -> list[str]:
        """The keys among `KEPT` that differ: nothing can be applied without a restart."""
        return [change.key for change in self.restart if change.key in KEPT]

    @property
    def summary(self) -> str:
        """One line: ``models tickets: gate.min_f1; intents added; http.port``. Empty if nothing differs."""
        models = [
            f"{it.model}: {', '.join(change.key for change in it.changes)}" if it.changes else f"{it.model} {it.kind}"
            for it in self.models
        ]
        service = [", ".join(change.key for change in self.restart)] if self.restart else []
        return "; ".join([*(["models " + "; ".join(models)] if models else []), *service])


def difference(running: BatonConfig, wanted: BatonConfig) -> Difference:
    """Return how ``wanted`` differs from ``running``, what a service uses. Passwords and secrets are not compared."""
    before, after = ({model.name: model for model in config.models} for config in (running, wanted))
    models = []
    for name, settings in after.items():
        if name not in before:
            models.append(ModelChange(model=name, kind=Kind.ADDED))
        elif changes := tuple(_changes(_plain(before[name]), _plain(settings), _effect_in_model)):
            models.append(ModelChange(model=name, kind=Kind.CHANGED, changes=changes))
    models += [ModelChange(model=name, kind=Kind.REMOVED) for name in before if name not in after]
    restart = _changes(shown(running, models=False), shown(wanted, models=False), lambda key: Effect.RESTART)
    return Difference(models=tuple(models), restart=tuple(restart))


def shown(config: BatonConfig, *, models: bool = True) -> dict[str, Any]:
    """Return ``config`` as plain values, with passwords of URLs and secrets masked."""
    plain = config.model_dump(mode="json", exclude=set() if models else {"models"})
    for receiver, settings in zip(plain["notify"], config.notify, strict=True):
        receiver.update(url=settings.shown, secret=settings.secret and MASK)
    return {**plain, "database": without_passwords(config.database), "storage": without_passwords(config.storage)}


def for_replicas(settings: ModelSettings) -> dict[str, Any]:
    """Return the settings that replicas read, as plain values without those that have their defaults.

    Replicas that were started with the same values need not be replaced.
    """
    whole = settings.model_dump(mode="json", exclude_defaults=True)
    found: dict[str, Any] = {}
    for key in REPLICA_KEYS:
        section, _, name = key.partition(".")
        if not name and section in whole:
            found[section] = whole[section]
        elif name in whole.get(section, {}):
            found.setdefault(section, {})[name] = whole[section][name]
    return found


def _plain(settings: ModelSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def _effect_in_model(key: str) -> Effect:
    if key == SCALING_KEY:
        return Effect.SCALES
    read = any(key == name or key.startswith(f"{name}.") for name in REPLICA_KEYS)
    return Effect.REPLACES if read else Effect.AT_ONCE


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], effect: Callable[[str], Effect], prefix: str = ""
) -> Iterator[Change]:
    """Yield a change for each value that differs, of mappings that may lie in each other."""
    for name in dict.fromkeys([*before, *after]):
        old, new, key = before.get(name), after.get(name), f"{prefix}{name}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes(old, new, effect, f"{key}.")
        elif old != new:
            yield Change(key=key, old=old, new=new, effect=effect(key))
