"""Translates a ``baton.yaml`` for Serve and KubeRay: the applications, as `baton up` runs them, and the pods' environment.

Talks to no cluster, and does not know what the applications do. The database is left out: its URL contains a password, and
comes from a Secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from baton.config.changes import for_replicas
from baton.config.file import BatonConfig, load_config, read_config
from baton.errors import ConfigError
from services.environment import NODE_VARIABLES, STORE_VARIABLES
from services.host.haproxy import BINARY, IN_IMAGE
from services.names import CONTROL, application, route

SERVE, ENVIRONMENT, RULES = "serve-config.yaml", "pods.env", "prometheusrule.yaml"
"""Names of the rendered files."""

NOTE = "# Written by `baton render`: edit baton.yaml (or the rules) and run `make render`.\n"
ALL_ADDRESSES = "0.0.0.0"
NAME = "baton"
"""Name of the RayService and of the PrometheusRule."""


@dataclass(frozen=True, kw_only=True)
class Application:
    """A Serve application."""

    name: str
    route: str
    import_path: str
    """Where Serve finds the builder of the application."""
    args: Mapping[str, Any]
    """Arguments of the builder, as plain values, without the keys of `STORE_VARIABLES`."""


def applications(config: BatonConfig) -> list[Application]:
    """Return all applications of ``config``: the control plane, and one for each model."""
    whole = config.model_dump(mode="json", exclude_defaults=True, exclude=set(STORE_VARIABLES))
    specs = [Application(name=CONTROL, route="/", import_path="services.app:control", args=whole)]
    shared: dict[str, Any] = {} if config.keys_required else {"keys_required": False}
    if logging := config.logging.model_dump(mode="json", exclude_defaults=True):
        shared["logging"] = logging
    if config.traces is not None:
        shared["traces"] = config.traces.model_dump(mode="json")
    for model in config.models:
        specs.append(
            Application(
                name=application(model.name),
                route=route(model.name),
                import_path="services.app:model",
                args={"settings": for_replicas(model), **shared},
            )
        )
    return specs


def serve_config(config: BatonConfig) -> str:
    """Return the file for `serve deploy`, which is also a RayService's ``serveConfigV2``.

    The nodes listen on all addresses, and ``http.host`` says so: `auth.required: auto` then requires API keys.
    """
    config = config.model_copy(update={"http": config.http.model_copy(update={"host": ALL_ADDRESSES})})
    return _yaml(
        {
            "proxy_location": "EveryNode",
            "http_options": {"host": ALL_ADDRESSES, "port": config.http.port},
            "applications": [
                {"name": spec.name, "route_prefix": spec.route, "import_path": spec.import_path, "args": dict(spec.args)}
                for spec in applications(config)
            ],
        }
    )


def portable(path: Path) -> BatonConfig:
    """Load the configuration at ``path``, which must mean the same on every machine. Environment variables are ignored.

    Raises:
        ConfigError: it contains a path that is relative to its own directory, which pods do not have.
    """
    here, resolved = read_config(path, {}), load_config(path, {})
    unset = set(STORE_VARIABLES) - here.model_fields_set
    local = list(_differences(here.model_dump(exclude=unset), resolved.model_dump(exclude=unset), ""))
    if local:
        raise ConfigError(
            f"{path}: {', '.join(local)}: relative to this file, which pods do not have; use an absolute path in the image, "
            "or a URL"
        )
    return here


def files(config: BatonConfig) -> dict[str, str]:
    """Return the files of a KubeRay overlay for ``config``, by name: a patch of the RayService, and the pods' environment."""
    indented = "".join(f"    {line}\n" for line in serve_config(config).splitlines())
    head = f"apiVersion: ray.io/v1\nkind: RayService\nmetadata:\n  name: {NAME}\nspec:\n  serveConfigV2: |\n"
    variables = {**NODE_VARIABLES, BINARY: IN_IMAGE}
    if "storage" in config.model_fields_set:
        variables[STORE_VARIABLES["storage"]] = config.storage
    lines = "".join(f"{name}={value}\n" for name, value in sorted(variables.items()))
    return {SERVE: NOTE + head + indented, ENVIRONMENT: NOTE + lines}


def rule_file(rules: Path) -> dict[str, str]:
    """Return the Prometheus rule file at ``rules`` as the resource that the Prometheus operator reads, by file name."""
    try:
        content = yaml.safe_load(rules.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{rules} cannot be read: {error}") from error
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": NAME},
        "spec": {"groups": content["groups"]},
    }
    return {RULES: NOTE + _yaml(resource)}


def write(wanted: Mapping[str, str], directory: Path) -> None:
    """Write the files ``wanted``, given as contents by name, into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in wanted.items():
        (directory / name).write_text(content, encoding="utf-8")


def outdated(wanted: Mapping[str, str], directory: Path) -> list[str]:
    """Return the names of ``wanted`` files that are missing in ``directory`` or have another content."""
    found = ((name, directory / name, content) for name, content in wanted.items())
    return [name for name, path, content in found if not path.is_file() or path.read_text(encoding="utf-8") != content]


def _differences(first: Any, second: Any, key: str) -> Iterator[str]:
    """Yield "key value" of ``first`` wherever it differs from ``second``, a dump of the same shape.

    Absolute paths are skipped: they can differ only by resolved symbolic links.
    """
    if isinstance(first, Mapping):
        for name in first:
            yield from _differences(first[name], second[name], f"{key}.{name}".lstrip("."))
    elif isinstance(first, list | tuple):
        for index, item in enumerate(first):
            yield from _differences(item, second[index], f"{key}[{index}]")
    elif first != second and not Path(str(first)).is_absolute():
        yield f"{key} {first!r}"


def _yaml(value: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
    return text
