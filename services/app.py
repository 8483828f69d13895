"""Builders of the Serve applications, as named in Serve configs: ``services.app:model`` and ``services.app:control``.

A configuration from `baton render` names neither database nor storage. The replicas then read both from the environment of the
node that they run on, so that the database's password stands neither in a Serve config nor in what Ray keeps of it.

Without `from __future__ import annotations`: Serve makes a builder's argument from its annotation, if that is a class.
"""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from ray import serve

from baton.config.file import BatonConfig, LoggingSettings
from baton.config.model_settings import ModelSettings
from baton.errors import ConfigError
from services.control.plane import ControlPlane
from services.environment import STORES, of_jobs
from services.names import DEPLOYMENT
from services.replica.replica import ModelReplica

ONGOING = 8192
"""Requests that Serve lets into a replica at once. The replica's own bounded queue answers 429 long before."""


class ModelArgs(BaseModel):
    """Arguments of `model`: the model's settings, what is logged, and where truth and artifacts live; None: where the
    environment says.
    """

    settings: ModelSettings
    database: str | None = None
    storage: str | None = None
    keys_required: bool = True
    """Fails closed: who starts replicas without a word about keys gets replicas that ask for them."""
    logging: LoggingSettings = LoggingSettings()


class Model(ModelReplica):
    """A replica that finds out where truth and artifacts live, where it was not told."""

    def __init__(
        self, settings: dict[str, Any], database: str | None, storage: str | None, *, keys_required: bool, texts: bool
    ) -> None:
        super().__init__(
            settings,
            database or _from_environment("database"),
            storage or _from_environment("storage"),
            keys_required=keys_required,
            texts=texts,
        )


class Control(ControlPlane):
    """A control plane that finds out where truth and artifacts live, where it was not told. So will its jobs, on any node."""

    def __init__(self, config: dict[str, Any]) -> None:
        found = {key: _from_environment(key) for key in STORES if key not in config}
        told = {variable: config[key] for key, variable in STORES.items() if key in config}
        super().__init__({**config, **found}, {**of_jobs(os.environ), **told})


def _from_environment(key: str) -> str:
    variable = STORES[key]
    if variable not in os.environ:
        raise ConfigError(f"{key} is neither in the Serve config nor in the environment; set {variable} on every node")
    return os.environ[variable]


def serve_logging(settings: LoggingSettings) -> dict[str, Any]:
    """The settings as Ray Serve takes them, for its own processes and for deployments."""
    if settings.format == "text":
        return {"encoding": "TEXT"}
    return {"encoding": "JSON", "additional_log_standard_attrs": ["name"]}


def model(args: ModelArgs) -> serve.Application:
    """The application of one model."""
    serving = args.settings.serving
    deployment = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=serving.replicas,
        max_ongoing_requests=ONGOING,
        ray_actor_options={
            "num_cpus": serving.cpus,
            "num_gpus": serving.gpus,
            **({"label_selector": dict(serving.nodes)} if serving.nodes else {}),
        },
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=20,
        logging_config={**serve_logging(args.logging), "enable_access_log": args.logging.requests},
    )(serve.ingress()(Model))
    return deployment.bind(
        args.settings.model_dump(mode="json"),
        args.database,
        args.storage,
        keys_required=args.keys_required,
        texts=args.logging.texts,
    )


def control(args: BatonConfig) -> serve.Application:
    """The control plane's application. What `args` does not set of `STORES` is left to the environment."""
    deployment = serve.deployment(
        name="Control",
        num_replicas=1,
        max_ongoing_requests=ONGOING,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=5,
        health_check_timeout_s=30,
        logging_config=serve_logging(args.logging),
    )(serve.ingress()(Control))
    dumped: dict[str, Any] = args.model_dump(mode="json", exclude=set(STORES) - args.model_fields_set)
    return deployment.bind(dumped)


def build(import_path: str, args: Mapping[str, Any]) -> serve.Application:
    """What Serve makes of ``import_path`` and ``args`` in a Serve config."""
    if import_path == "services.app:control":
        return control(BatonConfig.model_validate(args))
    assert import_path == "services.app:model"
    return model(ModelArgs.model_validate(args))
