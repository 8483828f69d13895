"""Commands about API keys. They work on the database that baton.yaml names, so that the first key needs no service."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from baton.config.file import load_config
from baton.errors import InvalidInput, NotFound
from baton.keys import ALLOWS, Key, Scope, id_of
from services.cli.terminal import AsJson, ConfigFile, err, out, path_of, print_json, print_value

if TYPE_CHECKING:
    from baton.store.registry import Registry

UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}
PER_SECOND = {"s": 1.0, "m": 60.0, "h": 3600.0}

keys_app = typer.Typer(
    no_args_is_help=True,
    help="API keys: make, list and revoke them. Needs the database of baton.yaml, not a running service.",
)


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who uses it, for your own list.", metavar="NAME")],
    config: ConfigFile = None,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="; ".join(f"{name}: {text}" for name, text in ALLOWS.items()) + ". May be given several times."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only for this model. May be given several times [default: all].", metavar="MODEL")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="For how long it is valid: 90d, 12h, 30m [default: until revoked].", metavar="TIME")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(help="Most requests that one replica takes: 50/s, 600/m, 1000/h [default: no limit].", metavar="RATE"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print its token, this once: only a hash of it is kept.

    `baton keys create shop --scope predict --scope feedback --model intents --expires 90d --rate 50/s`
    """
    loaded = load_config(path_of(config), os.environ)
    expires_at = datetime.now(UTC) + duration(expires) if expires is not None else None
    per_second = requests_per_second(rate) if rate is not None else None
    registry = _registry(loaded.database)
    _require_known(model or (), {settings.name for settings in loaded.models} | set(registry.declared()))
    key, token = registry.keys.create(name, scope or (), models=model or None, expires_at=expires_at, rate=per_second)
    registry.close()
    if as_json:
        print_json({**plain(key), "token": token})
    else:
        out.print(token, markup=False, highlight=False, soft_wrap=True)
        err.print(f"key {key.id}; keep the token now, it is not shown again", style="dim", markup=False)


@keys_app.command("list")
def list_keys(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """All keys, newest first, revoked ones too: what they allow, and when they were made, used, revoked."""
    registry = _registry(load_config(path_of(config), os.environ).database)
    found = registry.keys.all()
    registry.close()
    print_value([plain(key) for key in found], as_json, _table)


@keys_app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="A key's id, or the whole key.", metavar="ID")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """End a key. Running services refuse it within seconds (`serving.poll_seconds`)."""
    registry = _registry(load_config(path_of(config), os.environ).database)
    revoked = registry.keys.revoke(id_of(key.encode()) or key)
    registry.close()
    print_value(plain(revoked), as_json, lambda item: f"key {item['id']} ({item['name']}) is revoked")


def duration(text: str) -> timedelta:
    """A length of time written as ``90d``, ``12h`` or ``30m``. Raises ``InvalidInput``."""
    found = re.fullmatch(r"([1-9]\d{0,4})([dhm])", text)
    if found is None:
        raise InvalidInput(f"--expires {text!r} is not allowed; a whole number and d, h or m, for example 90d")
    return int(found[1]) * UNITS[found[2]]


def requests_per_second(text: str) -> float:
    """A rate written as ``50/s``, ``600/m`` or ``1000/h``. Raises ``InvalidInput``."""
    found = re.fullmatch(r"([1-9]\d{0,8})/([smh])", text)
    if found is None:
        raise InvalidInput(f"--rate {text!r} is not allowed; a whole number per s, m or h, for example 50/s")
    return int(found[1]) / PER_SECOND[found[2]]


def plain(key: Key) -> dict[str, Any]:
    """A key as JSON values; nothing of its token."""
    stamps = ("created_at", "expires_at", "last_used_at", "revoked_at")
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "models": sorted(key.models) if key.models is not None else None,
        "rate": key.rate,
        "state": "revoked" if key.revoked_at else "expired" if key.expired(datetime.now(UTC)) else "valid",
        **{name: at.isoformat(timespec="seconds") if (at := getattr(key, name)) else None for name in stamps},
    }


def _registry(database: str) -> Registry:
    """The registry, ready for use. A database without a schema gets one: keys may be made before the first `baton up`. An older
    schema stays as it is, because services may be running on it.
    """
    from baton.store.registry import Registry  # SQLAlchemy takes a while to load, and most commands need no database

    registry = Registry(database)
    if registry.is_empty():
        registry.migrate()
    registry.check()
    return registry


def _require_known(models: Sequence[str], known: Collection[str]) -> None:
    """A service may have models that this file does not name, on Kubernetes for instance: the registry knows them, too."""
    for model in models:
        if model not in known:
            raise NotFound(f"unknown model {model!r}; declared models: {', '.join(sorted(known))}")


def _table(keys: list[dict[str, Any]]) -> RenderableType:
    if not keys:
        return Text("no keys yet; `baton keys create NAME --scope SCOPE` makes one")
    table = Table(box=None, header_style="bold")
    for title in ("id", "name", "state", "scopes", "models", "rate", "created", "expires", "last used"):
        table.add_column(title)
    for key in keys:
        stamps = ((key[name] or "never")[:16] for name in ("created_at", "expires_at", "last_used_at"))
        rate = f"{key['rate']:g}/s" if key["rate"] else "no limit"
        models = ", ".join(key["models"] or ("all",))
        table.add_row(key["id"], key["name"], key["state"], ", ".join(key["scopes"]), models, rate, *stamps)
    return table
