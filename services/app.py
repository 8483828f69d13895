"""Builders of the Serve applications; Serve configs name them as ``services.app:model`` and ``services.app:control``.

A Serve config from `baton render` contains neither database nor storage. The applications then read both URLs from the
environment of their node, so that the database's password appears neither in the config nor in Ray's copy of it.

No `from __future__ import annotations` here: Serve builds the argument of a builder from its annotation, which must be a class.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from ray import serve

from baton import installation
from baton.config.changes import SCALING_KEY, for_replicas, shown
from baton.config.file import BatonConfig, LoggingSettings
from baton.config.model_settings import ModelSettings
from baton.config.traces_settings import TracesSettings
from baton.errors import ConfigError
from baton.urls import without_passwords
from services.control.plane import ControlPlane
from services.environment import STORE_VARIABLES, job_environment
from services.names import CONTROL_DEPLOYMENT, DEPLOYMENT
from services.replica.replica import ModelReplica

MAX_ONGOING_REQUESTS = 8192
"""Requests that Serve passes to a replica at once. Far above the default of ``serving.max_queue``, so that the replica's own
bounded queue decides and answers 429, instead of a queue of Serve's in which requests wait uncounted.
"""

HEALTH_CHECK_PERIOD_S = 5
"""Half of Serve's default, so that a replica that hangs is found, and replaced, sooner."""

CONTROL_HEALTH_CHECK_PERIOD_S = 1
"""There is one control plane only: Serve notices its death at the next check, and until then nobody can roll back."""

HEALTH_CHECK_TIMEOUT_S = 30
"""Serve's default: a replica on a busy machine is slow to answer, but not dead."""

SURGE_PERCENT = 1
"""How many replicas of a model may run beside those that are wanted while replicas are replaced, of which Serve makes one. Old
replicas then answer until new ones do; by Serve's default, the only replica would stop before its successor starts.
"""

GRACEFUL_SHUTDOWN_TIMEOUT_S = 20
"""Serve's default: time for the batches that are running, and for the prediction log to be written."""


class ModelArgs(BaseModel):
    """Arguments of `model` in a Serve config."""

    settings: ModelSettings
    database: str | None = None
    """URL of the registry's database; None: from the environment of the replica's node."""
    storage: str | None = None
    """URL of the artifact storage; None: from the environment of the replica's node."""
    keys_required: bool = True
    """Whether requests need an API key: yes, unless a Serve config disables it explicitly."""
    logging: LoggingSettings = LoggingSettings()
    traces: TracesSettings | None = None


class EnvModelReplica(ModelReplica):
    """A replica that reads the URLs that its Serve config leaves out from BATON_DATABASE and BATON_STORAGE."""

    def __init__(
        self,
        settings: dict[str, Any],
        database: str | None,
        storage: str | None,
        *,
        keys_required: bool,
        texts: bool,
        traces: dict[str, Any] | None,
    ) -> None:
        super().__init__(
            settings,
            database or _from_environment("database"),
            storage or _from_environment("storage"),
            keys_required=keys_required,
            texts=texts,
            traces=traces,
        )


class EnvControlPlane(ControlPlane):
    """A control plane that reads the URLs that its Serve config leaves out from BATON_DATABASE and BATON_STORAGE.

    Its jobs do the same on their nodes: only URLs that are in the Serve config are passed on to them.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from_node = {key: _from_environment(key) for key in STORE_VARIABLES if key not in config}
        configured = {variable: config[key] for key, variable in STORE_VARIABLES.items() if key in config}
        super().__init__({**config, **from_node}, {**job_environment(os.environ), **configured})


def _from_environment(key: str) -> str:
    variable = STORE_VARIABLES[key]
    if variable not in os.environ:
        raise ConfigError(f"{key} is neither in the Serve config nor in the environment; set {variable} on every node")
    return os.environ[variable]


def serve_logging(settings: LoggingSettings) -> dict[str, Any]:
    """Return the settings in the form of Ray Serve, for its own processes and for deployments."""
    if settings.format == "text":
        return {"encoding": "TEXT"}
    return {"encoding": "JSON", "additional_log_standard_attrs": ["name"]}


def _identified(deployment: serve.Deployment, arguments: Mapping[str, Any]) -> serve.Deployment:
    """Return ``deployment`` with a version that follows from ``arguments`` and the code.

    ``arguments`` are without passwords and secrets, which `baton.config.changes.difference` does not compare either.

    When an application is deployed again, Serve then leaves replicas of the same version alone. By itself it would replace all,
    except those of a Serve config, whose content it compares. The option is internal to Serve.
    """
    content = json.dumps([installation.version(), arguments], sort_keys=True)
    return deployment.options(version=hashlib.sha256(content.encode()).hexdigest(), _internal=True)


def model(args: ModelArgs) -> serve.Application:
    """Build the application of one model. Deployed again, it replaces the replicas if what they read has changed."""
    serving = args.settings.serving
    deployment = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=serving.replicas,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={
            "num_cpus": serving.cpus,
            "num_gpus": serving.gpus,
            **({"label_selector": dict(serving.nodes)} if serving.nodes else {}),
        },
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_timeout_s=GRACEFUL_SHUTDOWN_TIMEOUT_S,
        max_surge_percent=SURGE_PERCENT,
        logging_config={**serve_logging(args.logging), "enable_access_log": args.logging.requests},
    )(serve.ingress()(EnvModelReplica))
    section, _, key = SCALING_KEY.partition(".")
    read = for_replicas(args.settings)
    read[section] = {name: value for name, value in read.get(section, {}).items() if name != key}
    urls = {key: value and without_passwords(value) for key, value in (("database", args.database), ("storage", args.storage))}
    identity = {**args.model_dump(mode="json", exclude={"settings"}), **urls, "settings": read}
    return _identified(deployment, identity).bind(
        args.settings.model_dump(mode="json"),
        args.database,
        args.storage,
        keys_required=args.keys_required,
        texts=args.logging.texts,
        traces=args.traces and args.traces.model_dump(),
    )


def control(args: BatonConfig) -> serve.Application:
    """Build the application of the control plane. URLs that ``args`` does not set are read from the environment of its node.

    Deployed again with other models, it takes them up without a restart (`ControlPlane.reconfigure`).
    """
    dumped: dict[str, Any] = args.model_dump(mode="json", exclude=set(STORE_VARIABLES) - args.model_fields_set)
    deployment = serve.deployment(
        name=CONTROL_DEPLOYMENT,
        num_replicas=1,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=CONTROL_HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        logging_config=serve_logging(args.logging),
        user_config={"models": dumped["models"]},
    )(serve.ingress()(EnvControlPlane))
    masked = shown(args, models=False)
    return _identified(deployment, {key: masked[key] for key in dumped if key != "models"}).bind(dumped)


def build(import_path: str, args: Mapping[str, Any]) -> serve.Application:
    """Build the application that Ray Serve builds from ``import_path`` and ``args`` in a Serve config."""
    if import_path == "services.app:control":
        return control(BatonConfig.model_validate(args))
    assert import_path == "services.app:model"
    return model(ModelArgs.model_validate(args))
