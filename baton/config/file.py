"""``baton.yaml`` as pydantic models, its JSON Schema, and its mistakes as sentences.

Knows nothing of Ray, HTTP or the registry. Reads the environment only through the mapping that an entry point hands in.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from baton.config.model_settings import DATA_SUFFIXES, ModelSettings
from baton.config.section import ConfigSection
from baton.config.training_settings import TrainingSettings
from baton.errors import ConfigError, NotFound

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
"""What one run may have its own way. Not the gate, the holdout or the engine: a run must not choose its own judge."""

ConfigSectionType = TypeVar("ConfigSectionType", bound=BaseModel)


class HttpSettings(ConfigSection):
    """Where the service listens."""

    host: str = Field("127.0.0.1", description="Address to listen on. 0.0.0.0 opens the service to the network.")
    port: int = Field(8000, ge=1, le=65535, description="Port for predictions and the control API.")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. Of names only ``localhost`` is taken for one that says so."""
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


class AuthSettings(ConfigSection):
    """Who may call the service."""

    required: bool | Literal["auto"] = Field(
        "auto",
        description="Whether every call needs an API key (`baton keys create`). auto: yes, unless `http.host` is a loopback "
        "address and Baton started Ray itself. Health checks never need one.",
    )

    @field_validator("required", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if value not in (True, False, "auto"):
            raise ValueError("true, false or auto")
        return value


class LoggingSettings(ConfigSection):
    """What the service's processes write about themselves."""

    format: Literal["text", "json"] = Field("text", description="json: one JSON object a line, for machines that collect logs.")
    requests: bool = Field(
        False,
        description="A line for each prediction: method, route, status, time. It costs throughput (benchmarks/RESULTS.md); "
        "metrics count the same, and the log of answers (`feedback.log`) has each request's id.",
    )
    texts: bool = Field(
        False,
        description="Let logs quote what requests said, in the messages of unexpected errors. For looking into a mistake.",
    )


class BatonConfig(ConfigSection):
    """The whole file."""

    storage: str = Field("./.baton/storage", min_length=1, description="Where versions live: a path or any fsspec URL.")
    database: str = Field("sqlite:///.baton/baton.db", min_length=1, description="SQLAlchemy URL of the registry.")
    http: HttpSettings = HttpSettings()
    auth: AuthSettings = AuthSettings()
    logging: LoggingSettings = LoggingSettings()
    models: tuple[ModelSettings, ...] = Field(description="The models to serve and train.", json_schema_extra={"minItems": 1})

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
        """Whether calls need an API key."""
        return self.auth.required is True or (self.auth.required == "auto" and not self.http.loopback)

    def model(self, name: str) -> ModelSettings:
        """The settings of model ``name``. Raises ``NotFound`` with the declared names."""
        for model in self.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.models)
        raise NotFound(f"unknown model {name!r}; declared models: {known}")


def read_config(path: Path, environ: Mapping[str, str]) -> BatonConfig:
    """Read, override and validate ``path``; its relative paths stay as they are.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds mistakes; the message lists every one.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no configuration at {path}; name one with -c FILE or BATON_CONFIG") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # PyYAML raises ValueError for the date 2024-13-45
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold a mapping with the keys {', '.join(BatonConfig.model_fields)}")
    for variable, keys in ENVIRONMENT.items():
        if variable in environ:
            _put(raw, keys, environ[variable])
    return validate(BatonConfig, raw, source=str(path))


def load_config(path: Path, environ: Mapping[str, str]) -> BatonConfig:
    """`read_config`, and resolve its paths.

    Relative paths in the file (storage, SQLite database, data, base model directories) are taken relative to the
    file's own directory, so that the result means the same from anywhere.

    Raises:
        ConfigError: as `read_config`.
    """
    return _resolve(read_config(path, environ), path.resolve().parent)


def override(model: ModelSettings, assignments: Sequence[str]) -> ModelSettings:
    """``model`` with ``KEY=VALUE`` assignments applied, KEY dotted (``training.epochs=5``), VALUE in YAML.

    Raises:
        ConfigError: an assignment without ``=``, an unknown key or a bad value.
    """
    raw = model.model_dump(mode="python")
    for assignment in assignments:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ConfigError(f"{assignment!r} is not KEY=VALUE; example: training.epochs=5")
        if not key.startswith(OVERRIDABLE):
            raise ConfigError(
                f"{key!r} cannot be overridden for one run; allowed: {', '.join(OVERRIDABLE)}. "
                "How a version is judged and served is for baton.yaml to say"
            )
        try:
            _put(raw, tuple(key.split(".")), yaml.safe_load(value))
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"{key}: {value!r} is not valid YAML: {error}") from error
    return validate(ModelSettings, raw, source="override")


def trial_settings(model: Mapping[str, Any], drawn: Mapping[str, Any]) -> ModelSettings:
    """Return the settings of one trial of a search: those of ``model`` (plain values) with the training settings ``drawn``.

    Raises:
        ConfigError: the drawn settings do not go together.
    """
    training = {**model["training"], "search": None, **drawn}
    return validate(ModelSettings, {**model, "training": training}, source="trial")


def validate(section_cls: type[ConfigSectionType], raw: object, *, source: str) -> ConfigSectionType:
    """``raw`` as ``section_cls``; every mistake becomes one line of a single ``ConfigError``."""
    try:
        return section_cls.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(section_cls, problem) for problem in error.errors(include_url=False)]
        count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
        raise ConfigError(f"{source}: {count}\n" + "\n".join(f"  - {line}" for line in lines)) from None


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of ``baton.yaml``, for editors."""
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
    if problem["type"] == "extra_forbidden":
        known = _known_keys(section_cls, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{key}: unknown key; {hint}allowed: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{key}: missing; it has no default"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not key:
        return message
    if isinstance(problem["input"], Mapping | BaseModel):  # a whole section: the message names what is wrong in it
        return f"{key}: {message}"
    return f"{key}: {problem['input']!r} is not allowed; {message[0].lower()}{message[1:]}"


def _known_keys(section_cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    current: Any = section_cls
    for part in location:
        if isinstance(part, int) or current is None:
            continue
        field = current.model_fields.get(part)
        current = _section_in(field.annotation) if field else None
    return list(current.model_fields) if current else []


def _section_in(annotation: Any) -> type[BaseModel] | None:
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
                        "train": _data_path(model.data.train, root),
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
        database = prefix + str((root / database.removeprefix(prefix)).resolve())
    return config.model_copy(update={"models": models, "storage": storage, "database": database})


def _resolved_training(training: TrainingSettings, root: Path) -> TrainingSettings:
    """``training`` with the file of `adapt` made absolute."""
    if training.adapt is None:
        return training
    adapt = training.adapt.model_copy(update={"data": _data_path(training.adapt.data, root)})
    return training.model_copy(update={"adapt": adapt})


def _existing(value: str, root: Path) -> str:
    """A hub id stays as it is; a directory becomes absolute."""
    path = root / value
    return str(path.resolve()) if path.is_dir() or value.startswith((".", "/")) else value


def _data_path(value: str, root: Path) -> str:
    """A `datasets` id (no suffix, no such file) or a URL stays as it is; a file becomes absolute."""
    if "://" in value:
        return value
    path = root / value
    looks_like_file = path.suffix in (*DATA_SUFFIXES, ".txt") or path.exists() or value.startswith((".", "/"))
    return str(path.resolve()) if looks_like_file else value
