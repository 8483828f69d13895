"""Builders of the Serve applications, as named in Serve configs: ``services.app:model`` and ``services.app:control``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from ray import serve

from baton.config import BatonConfig, LoggingSettings, ModelSettings
from services.control import ControlPlane
from services.inference import ModelReplica
from services.names import DEPLOYMENT

ONGOING = 8192
"""Requests that Serve lets into a replica at once. The replica's own bounded queue answers 429 long before."""


class ModelArgs(BaseModel):
    """Arguments of `model`: the model's settings, where truth and artifacts live, and what is logged."""

    settings: ModelSettings
    database: str
    storage: str
    keys_required: bool = True
    """Fails closed: who starts replicas without a word about keys gets replicas that ask for them."""
    logging: LoggingSettings = LoggingSettings()


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
        ray_actor_options={"num_cpus": serving.cpus, "num_gpus": serving.gpus},
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=20,
        logging_config=serve_logging(args.logging),
    )(serve.ingress()(ModelReplica))
    return deployment.bind(
        args.settings.model_dump(mode="json"),
        args.database,
        args.storage,
        keys_required=args.keys_required,
        texts=args.logging.texts,
    )


def control(args: BatonConfig) -> serve.Application:
    """The control plane's application."""
    deployment = serve.deployment(
        name="Control",
        num_replicas=1,
        max_ongoing_requests=ONGOING,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=5,
        health_check_timeout_s=30,
        logging_config=serve_logging(args.logging),
    )(serve.ingress()(ControlPlane))
    dumped: dict[str, Any] = args.model_dump(mode="json")
    return deployment.bind(dumped)
