"""`baton keys create`, `list` and `revoke`: API keys.

They open the database that ``baton.yaml`` names, not the API, so that the first key can be created before the service runs.
"""

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

DURATION_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}
RATE_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
"""Seconds in each unit of time of a rate."""

keys_app = typer.Typer(
    no_args_is_help=True,
    help="Create, list and revoke API keys. Needs the database of baton.yaml, not a running service.",
)


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key's user, for the list of keys.", metavar="NAME")],
    config: ConfigFile = None,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help="Allow these calls. May be given several times. "
            + "; ".join(f"{name}: {text}" for name, text in ALLOWS.items())
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Restrict the key to this model. May be given several times [default: all models].", metavar="MODEL"),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="Let the key expire after this time: 90d, 12h or 30m [default: never].", metavar="TIME")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            help="Limit the requests that each replica accepts: 50/s, 600/m or 1000/h [default: no limit].", metavar="RATE"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print its token. Save the token: it is shown only once, and only its hash is stored.

    `baton keys create shop --scope predict --scope feedback --model intents --expires 90d --rate 50/s`
    """
    loaded = load_config(path_of(config), os.environ)
    expires_at = datetime.now(UTC) + duration(expires) if expires is not None else None
    per_second = requests_per_second(rate) if rate is not None else None
    registry = _registry(loaded.database)
    _require_declared(model or (), {settings.name for settings in loaded.models} | set(registry.declared()))
    key, token = registry.keys.create(name, scope or (), models=model or None, expires_at=expires_at, rate=per_second)
    registry.close()
    if as_json:
        print_json({**plain(key), "token": token})
    else:
        out.print(token, markup=False, highlight=False, soft_wrap=True)
        err.print(f"key {key.id}; save the token now, it is not shown again", style="dim", markup=False)


@keys_app.command("list")
def list_keys(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List all keys, newest first, also expired and revoked ones: their scopes, models, limits and times."""
    registry = _registry(load_config(path_of(config), os.environ).database)
    keys = registry.keys.all()
    registry.close()
    print_value([plain(key) for key in keys], as_json, _table)


@keys_app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key, or its whole token.", metavar="ID")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key. The control plane refuses it after about two seconds, replicas after `serving.poll_seconds`."""
    registry = _registry(load_config(path_of(config), os.environ).database)
    revoked = registry.keys.revoke(id_of(key.encode()) or key)
    registry.close()
    print_value(plain(revoked), as_json, lambda item: f"key {item['id']} ({item['name']}) is revoked")


def duration(text: str) -> timedelta:
    """Parse a length of time written as ``90d``, ``12h`` or ``30m``. Raises ``InvalidInput``."""
    match = re.fullmatch(r"([1-9]\d{0,4})([dhm])", text)
    if match is None:
        raise InvalidInput(f"--expires {text!r} is not allowed; give a whole number followed by d, h or m, for example 90d")
    return int(match[1]) * DURATION_UNITS[match[2]]


def requests_per_second(text: str) -> float:
    """Parse a rate written as ``50/s``, ``600/m`` or ``1000/h`` into requests per second. Raises ``InvalidInput``."""
    match = re.fullmatch(r"([1-9]\d{0,8})/([smh])", text)
    if match is None:
        raise InvalidInput(f"--rate {text!r} is not allowed; give a whole number per s, m or h, for example 50/s")
    return int(match[1]) / RATE_UNITS[match[2]]


def plain(key: Key) -> dict[str, Any]:
    """Return a key as JSON values, without anything of its token."""
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
    """Open the registry at the URL ``database``.

    An empty database is migrated, because keys may be created before the first `baton up`. An older schema is not: services may
    be using it.

    Raises:
        RegistryError: the schema is older or newer than this version of Baton.
    """
    from baton.store.registry import Registry  # imports SQLAlchemy, which is slow; other commands need no database

    registry = Registry(database)
    if registry.is_empty():
        registry.migrate()
    registry.check()
    return registry


def _require_declared(models: Sequence[str], declared: Collection[str]) -> None:
    """Raise ``NotFound`` unless all ``models`` are declared.

    ``declared`` includes the registry's models: a service on Kubernetes, for example, may have models that this file lacks.
    """
    for model in models:
        if model not in declared:
            raise NotFound(f"unknown model {model!r}; declared models: {', '.join(sorted(declared))}")


def _table(keys: list[dict[str, Any]]) -> RenderableType:
    if not keys:
        return Text("no keys yet; `baton keys create NAME --scope SCOPE` creates one")
    table = Table(box=None, header_style="bold")
    for title in ("id", "name", "state", "scopes", "models", "rate", "created", "expires", "last used"):
        table.add_column(title)
    for key in keys:
        stamps = ((key[name] or "never")[:16] for name in ("created_at", "expires_at", "last_used_at"))
        rate = f"{key['rate']:g}/s" if key["rate"] else "no limit"
        models = ", ".join(key["models"] or ("all",))
        table.add_row(key["id"], key["name"], key["state"], ", ".join(key["scopes"]), models, rate, *stamps)
    return table
