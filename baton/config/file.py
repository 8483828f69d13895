"""Loads and validates ``baton.yaml``, explains mistakes in it, and generates its JSON Schema.

Knows nothing of Ray, HTTP or the registry. Reads the environment only through the mapping that an entry point passes.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from baton.config.model_settings import DATA_SUFFIXES, GROUP_FIELD, ModelSettings
from baton.config.notify_settings import NotifySettings
from baton.config.section import ConfigSection
from baton.config.traces_settings import TracesSettings
from baton.config.training_settings import TrainingSettings
from baton.errors import ConfigError, NotFound
from baton.validation import not_allowed, unknown_key

ENVIRONMENT = {
    "BATON_DATABASE": ("database",),
    "BATON_STORAGE": ("storage",),
    "BATON_HTTP_HOST": ("http", "host"),
    "BATON_HTTP_PORT": ("http", "port"),
    "BATON_LOGGING_FORMAT": ("logging", "format"),
    "BATON_LOGGING_TEXTS": ("logging", "texts"),
}
"""Environment variables that override keys of the file. ``BATON_CONFIG`` names the file itself."""

DEFAULT_FILE = "baton.yaml"

OVERRIDABLE = ("training.", "data.train", "data.fields.", "base_model")
"""Keys that a single run may override. The gate, the holdout and the engine are not among them, because a run must not choose
how it is evaluated."""

REMOVED = {
    "feedback_holdout": "was removed in version 0.2: corrections only train. Delete it; `feedback.audit` is the share of "
    "logged texts that people label, and that judge (docs/gate.md)"
}
"""Keys of earlier versions, with what to do now."""

ConfigSectionType = TypeVar("ConfigSectionType", bound=BaseModel)


class HttpSettings(ConfigSection):
    """Address and port of the service."""

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. The default accepts only connections from this machine; 0.0.0.0 accepts all.",
    )
    port: int = Field(
        8000, ge=1, le=65535, description="Port for predictions, the control API and metrics of the control plane."
    )

    @property
    def url(self) -> str:
        """URL at which a client on this machine reaches the service."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # for both, Ray lets HAProxy listen on IPv4
        return f"http://[{host.strip('[]')}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the service. The only host name that counts as such is ``localhost``."""
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


class AuthSettings(ConfigSection):
    """Whether calls need an API key."""

    required: bool | Literal["auto"] = Field(
        "auto",
        description="Whether every call needs an API key (`baton keys create`). auto: required, unless `http.host` is a "
        "loopback address and Baton started Ray itself. Health checks never need a key.",
    )

    @field_validator("required", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if value not in (True, False, "auto"):
            raise ValueError("true, false or auto")
        return value


class LoggingSettings(ConfigSection):
    """Logs of the processes of the service."""

    format: Literal["text", "json"] = Field(
        "text", description="Format of log lines. json: one JSON object per line, for systems that collect logs."
    )
    requests: bool = Field(
        False,
        description="Log one line for each prediction request: method, route, status, duration. Off by default because it "
        "costs throughput (benchmarks/RESULTS.md). Metrics count requests anyway, and the prediction log (`feedback.log`) "
        "has their ids.",
    )
    texts: bool = Field(
        False,
        description="Log the messages of unexpected errors, which may quote texts of users. Off by default; switch it on to "
        "debug.",
    )


class BatonConfig(ConfigSection):
    """The whole file: the service, and the models that it serves and trains."""

    storage: str = Field(
        "./.baton/storage",
        min_length=1,
        description="Where versions, frozen data sets and checkpoints are stored: a path or any fsspec URL "
        "(s3://bucket/path). All nodes of a cluster must reach it.",
    )
    database: str = Field(
        "sqlite:///.baton/baton.db",
        min_length=1,
        description="SQLAlchemy URL of the registry's database: sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME.",
    )
    http: HttpSettings = HttpSettings()
    auth: AuthSettings = AuthSettings()
    logging: LoggingSettings = LoggingSettings()
    notify: tuple[NotifySettings, ...] = Field((), description="Who is told what happens to models.")
    traces: TracesSettings | None = Field(None, description="Where spans are sent; null: nothing is traced.")
    models: tuple[ModelSettings, ...] = Field(description="Models to serve and train.", json_schema_extra={"minItems": 1})

    @model_validator(mode="after")
    def _named_models(self) -> BatonConfig:
        if not self.models:
            raise ValueError("models: declare at least one model")
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"models: {', '.join(twice)!r} is declared more than once; names must be unique")
        return self

    @property
    def keys_required(self) -> bool:
        """Whether calls need an API key, as far as the file alone determines it."""
        return self.auth.required is True or (self.auth.required == "auto" and not self.http.loopback)

    def model(self, name: str) -> ModelSettings:
        """Return the settings of model ``name``. Raises ``NotFound``, which lists the declared names."""
        for model in self.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.models)
        raise NotFound(f"unknown model {name!r}; declared models: {known}")


MERGE = "tag:yaml.org,2002:merge"
"""The tag of the key ``<<``, which may stand several times."""


def _parse(text: str) -> Any:
    """Return the value of a YAML document. Of two equal keys `yaml.safe_load` takes the last; here they are an error.

    Raises ``YAMLError`` and ``ValueError``.
    """
    _check_keys(yaml.compose(text, yaml.SafeLoader), set())
    return yaml.safe_load(text)


def _check_keys(node: yaml.Node | None, seen: set[int]) -> None:
    """Raise ``ComposerError`` if a mapping in ``node`` has a key twice. ``seen``: ids of nodes that were checked (anchors)."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            _check_keys(value, seen)
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise yaml.composer.ComposerError(
                    None, None, f"the key {key.value!r} stands twice, in lines {lines[name]} and {line}", key.start_mark
                )
            lines[name] = line


def read_config(path: Path, environ: Mapping[str, str]) -> BatonConfig:
    """Read the file ``path``, apply the environment variables of `ENVIRONMENT`, and validate. Relative paths stay relative.

    Raises:
        ConfigError: the file is missing, is not YAML, or contains mistakes; the message lists all of them.
    """
    try:
        raw = _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no configuration at {path}; name one with -c FILE or BATON_CONFIG") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # PyYAML raises ValueError for the date 2024-13-45
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must contain a mapping with the keys {', '.join(BatonConfig.model_fields)}")
    for variable, keys in ENVIRONMENT.items():
        if variable in environ:
            _put(raw, keys, environ[variable])
    variables = {keys: variable for variable, keys in ENVIRONMENT.items() if variable in environ}
    config = validate(BatonConfig, raw, source=str(path), variables=variables)
    _check_receivers(config, str(path))
    return config


def _check_receivers(config: BatonConfig, source: str) -> None:
    """Raise ``ConfigError`` if a receiver of notices is there twice. Not a validator: URLs that are masked look alike."""
    urls = [receiver.url for receiver in config.notify]
    twice = sorted({receiver.shown for receiver in config.notify if urls.count(receiver.url) > 1})
    if twice:
        raise ConfigError(f"{source}: notify: a URL at {', '.join(twice)} is there twice; list all its events in one entry")


def load_config(path: Path, environ: Mapping[str, str]) -> BatonConfig:
    """Read the file like `read_config`, and make its paths absolute.

    Relative paths in the file (storage, SQLite database, data, base model directories) are relative to the directory of the
    file, so that the result does not depend on the current directory.

    Raises:
        ConfigError: as `read_config`.
    """
    return _resolve(read_config(path, environ), path.resolve().parent)


def override(model: ModelSettings, assignments: Sequence[str]) -> ModelSettings:
    """Return ``model`` with ``KEY=VALUE`` assignments applied. KEY is dotted (``training.epochs=5``), VALUE is YAML.

    Raises:
        ConfigError: an assignment without ``=``, an unknown key or a bad value.
    """
    raw = model.model_dump(mode="python")
    for assignment in assignments:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ConfigError(f"{assignment!r} is not KEY=VALUE; example: training.epochs=5")
        if key == f"data.fields.{GROUP_FIELD}":
            raise ConfigError(f"{key!r} cannot be overridden for one run: it decides who judges. Set it in baton.yaml")
        if not key.startswith(OVERRIDABLE):
            raise ConfigError(
                f"{key!r} cannot be overridden for one run; allowed: {', '.join(OVERRIDABLE)}. "
                "How versions are evaluated and served can only be set in baton.yaml"
            )
        try:
            _put(raw, tuple(key.split(".")), yaml.safe_load(value))
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"{key}: {value!r} is not valid YAML: {error}") from error
    return validate(ModelSettings, raw, source="override")


def trial_settings(model: Mapping[str, Any], sampled: Mapping[str, Any]) -> ModelSettings:
    """Return the settings of one trial of a search: those of ``model`` (plain values) with the training settings ``sampled``.

    Raises:
        ConfigError: the sampled settings contradict each other.
    """
    training = {**model["training"], "search": None, **sampled}
    return validate(ModelSettings, {**model, "training": training}, source="trial")


def validate(
    section_cls: type[ConfigSectionType],
    raw: object,
    *,
    source: str,
    variables: Mapping[tuple[str, ...], str] | None = None,
) -> ConfigSectionType:
    """Return ``raw`` as a ``section_cls``. Raises one ``ConfigError`` with a line for each mistake.

    ``variables``: the environment variables that gave values of ``raw``, by the places of these values.
    """
    try:
        return section_cls.model_validate(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        given = [(variables or {}).get(problem["loc"]) for problem in problems]  # type: ignore[arg-type]  # names only
        lines = [
            _explain(section_cls, problem) + (f" (from the environment variable {variable})" if variable else "")
            for problem, variable in zip(problems, given, strict=True)
        ]
        where = "the environment" if all(given) else source
        count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
        raise ConfigError(f"{where}: {count}\n" + "\n".join(f"  - {line}" for line in lines)) from None


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of ``baton.yaml``, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **BatonConfig.model_json_schema()}


def _put(raw: dict[str, Any], keys: tuple[str, ...], value: object) -> None:
    for key in keys[:-1]:
        inner = raw.get(key)
        if not isinstance(inner, dict):
            inner = raw[key] = {}
        raw = inner
    raw[keys[-1]] = value


def _explain(section_cls: type[BaseModel], problem: Any) -> str:
    location: tuple[int | str, ...] = problem["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if problem["type"] == "extra_forbidden" and location[-1] in REMOVED:
        return f"{key}: {REMOVED[str(location[-1])]}"
    if problem["type"] == "extra_forbidden":
        return f"{key}: {unknown_key(str(location[-1]), _known_keys(section_cls, location[:-1]))}"
    if problem["type"] == "missing":
        return f"{key}: missing; it has no default"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not key:
        return message
    if isinstance(problem["input"], Mapping | BaseModel):  # a whole section: do not quote it, the message names the key
        return f"{key}: {message}"
    return f"{key}: {not_allowed(repr(problem['input']), message)}"


def _known_keys(section_cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    current: Any = section_cls
    for part in location:
        if isinstance(part, int) or current is None:
            continue
        field = current.model_fields.get(part)
        current = section_in(field.annotation) if field else None
    return list(current.model_fields) if current else []


def section_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _resolve(config: BatonConfig, root: Path) -> BatonConfig:
    models = tuple(
        model.model_copy(
            update={
                "base_model": _existing(model.base_model, root),
                "data": model.data.model_copy(
                    update={
                        "train": None if model.data.train is None else _data_path(model.data.train, root),
                        "holdout": _data_path(model.data.holdout, root)
                        if isinstance(model.data.holdout, str)
                        else model.data.holdout,
                    }
                ),
                "training": _resolved_training(model.training, root),
            }
        )
        for model in config.models
    )
    storage = config.storage if "://" in config.storage else str((root / config.storage).resolve())
    prefix = "sqlite:///"
    database = config.database
    if database.startswith(prefix) and not database.startswith((prefix + "/", prefix + ":memory:")):
        if "?" in str(root.resolve()):  # the file would be another one, beside the directory
            raise ConfigError(f"database: a URL ends at the `?` in {root.resolve()}; rename it, or name an absolute path")
        database = prefix + str((root / database.removeprefix(prefix)).resolve())
    return config.model_copy(update={"models": models, "storage": storage, "database": database})


def _resolved_training(training: TrainingSettings, root: Path) -> TrainingSettings:
    """Return ``training`` with an absolute path of `adapt.data`."""
    if training.adapt is None:
        return training
    adapt = training.adapt.model_copy(update={"data": _data_path(training.adapt.data, root)})
    return training.model_copy(update={"adapt": adapt})


def _existing(value: str, root: Path) -> str:
    """Return a hub id unchanged, a directory as an absolute path."""
    path = root / value
    return str(path.resolve()) if path.is_dir() or value.startswith((".", "/")) else value


def _data_path(value: str, root: Path) -> str:
    """Return a `datasets` id (no data suffix, no such file) or a URL unchanged, a file as an absolute path."""
    if "://" in value:
        return value
    path = root / value
    looks_like_file = path.suffix in (*DATA_SUFFIXES, ".txt") or path.exists() or value.startswith((".", "/"))
    return str(path.resolve()) if looks_like_file else value
