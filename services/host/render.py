"""What Serve and KubeRay are told of a ``baton.yaml``: the applications, as `baton up` runs them, and the pods' environment.

Knows neither a cluster nor what the applications do. Names no database: its URL holds a password, and comes from a Secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from baton.config.file import BatonConfig, load_config, read_config
from baton.errors import ConfigError
from services.environment import EVERYWHERE, STORES
from services.names import CONTROL, application, route

SERVE, ENVIRONMENT, RULES = "serve-config.yaml", "pods.env", "prometheusrule.yaml"
"""The files that are written."""

NOTE = "# Written by `baton render`: edit baton.yaml (or the rules) and run `make render`.\n"
EVERY_ADDRESS = "0.0.0.0"
NAME = "baton"
"""The RayService, and what goes with it."""


@dataclass(frozen=True, kw_only=True)
class Application:
    """One Serve application. ``args`` are plain values for the builder at ``import_path``, without the `STORES`."""

    name: str
    route: str
    import_path: str
    args: Mapping[str, Any]


def applications(config: BatonConfig) -> list[Application]:
    """All applications of ``config``: the control plane's, and one for each model."""
    whole = config.model_dump(mode="json", exclude_defaults=True, exclude=set(STORES))
    found = [Application(name=CONTROL, route="/", import_path="services.app:control", args=whole)]
    shared: dict[str, Any] = {} if config.keys_required else {"keys_required": False}
    if logging := config.logging.model_dump(mode="json", exclude_defaults=True):
        shared["logging"] = logging
    for model in config.models:
        settings = model.model_dump(mode="json", exclude_defaults=True)
        found.append(
            Application(
                name=application(model.name),
                route=route(model.name),
                import_path="services.app:model",
                args={"settings": settings, **shared},
            )
        )
    return found


def serve_config(config: BatonConfig) -> str:
    """The file for `serve deploy`, and for a RayService's ``serveConfigV2``. Nodes listen on all addresses, and know it."""
    config = config.model_copy(update={"http": config.http.model_copy(update={"host": EVERY_ADDRESS})})
    return _yaml(
        {
            "proxy_location": "EveryNode",
            "http_options": {"host": EVERY_ADDRESS, "port": config.http.port},
            "applications": [
                {"name": found.name, "route_prefix": found.route, "import_path": found.import_path, "args": dict(found.args)}
                for found in applications(config)
            ],
        }
    )


def portable(path: Path) -> BatonConfig:
    """The configuration at ``path``, which must mean the same on every machine; the environment has no say.

    Raises:
        ConfigError: a file name is relative to the file's own place, which pods do not have.
    """
    here, resolved = read_config(path, {}), load_config(path, {})
    unset = set(STORES) - here.model_fields_set
    local = list(_differences(here.model_dump(exclude=unset), resolved.model_dump(exclude=unset), ""))
    if local:
        raise ConfigError(
            f"{path}: {', '.join(local)}: relative to this file, which pods do not have; give an absolute path in the image, "
            "or a URL"
        )
    return here


def files(config: BatonConfig) -> dict[str, str]:
    """What `deploy/kuberay` needs of ``config``, by file name: the RayService's part, and the pods' environment."""
    indented = "".join(f"    {line}\n" for line in serve_config(config).splitlines())
    head = f"apiVersion: ray.io/v1\nkind: RayService\nmetadata:\n  name: {NAME}\nspec:\n  serveConfigV2: |\n"
    variables = dict(EVERYWHERE)
    if "storage" in config.model_fields_set:
        variables[STORES["storage"]] = config.storage
    lines = "".join(f"{name}={value}\n" for name, value in sorted(variables.items()))
    return {SERVE: NOTE + head + indented, ENVIRONMENT: NOTE + lines}


def rule_file(rules: Path) -> dict[str, str]:
    """Prometheus's rule file at ``rules`` as the resource that its operator reads."""
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
    """Write ``wanted`` files into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in wanted.items():
        (directory / name).write_text(content, encoding="utf-8")


def outdated(wanted: Mapping[str, str], directory: Path) -> list[str]:
    """Which of the ``wanted`` files are not in ``directory`` as they should be."""
    found = ((name, directory / name, content) for name, content in wanted.items())
    return [name for name, path, content in found if not path.is_file() or path.read_text(encoding="utf-8") != content]


def _differences(first: Any, second: Any, key: str) -> Iterator[str]:
    """Where two dumps of one shape differ, as key and value of the first. Absolute paths differ by symbolic links only."""
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
