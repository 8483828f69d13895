"""How a model is served: the section `serving` of `baton.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from baton.config.section import ConfigSection
from baton.engines.base import Precision

MAX_INPUTS = 2048
"""Upper bound of ``max_inputs``: the header ``x-abstain`` may list the positions of all inputs, in 9,129 bytes then. HAProxy
refuses an answer whose headers exceed its buffer of 16,384 bytes."""


class ServingSettings(ConfigSection):
    """How a model is served: engine, replicas, resources and limits."""

    engine: Literal["auto", "onnx", "torch"] = Field(
        "auto",
        description="Library that runs the forward pass. auto: on CPUs ONNX Runtime for each version that it can run, else "
        "torch; on GPUs torch.",
    )
    precision: Precision = Field(
        "auto",
        description="Number format of the forward pass. auto: the fastest that loses at most half a point of F1 on the holdout "
        "(int8 with onnx, bf16 with torch on hardware that has it), else fp32.",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Device of the forward pass. auto: the GPU that Ray assigned to the replica (`gpus`), else the CPU."
    )
    replicas: int = Field(1, ge=1, description="Number of replicas: copies of the model that answer in parallel.")
    threads: int = Field(1, ge=1, description="CPU threads of a forward pass in one replica.")
    cpus: float = Field(
        0.0,
        ge=0,
        description="CPUs that Ray reserves for each replica. 0 reserves none, so that training runs may use all of them.",
    )
    gpus: float = Field(0.0, ge=0, description="GPUs that Ray reserves for each replica; fractions share a GPU.")
    nodes: Mapping[str, str] = Field(
        default_factory=dict, description="Ray node labels that a node must have to run replicas. Example: {pool: serving}."
    )
    max_batch_tokens: int = Field(
        16384,
        ge=8,
        description="Maximum number of tokens in one forward pass, padding included. Larger batches raise throughput and "
        "latency.",
    )
    max_queue: int = Field(
        1024,
        ge=1,
        description="Maximum number of short requests that wait in a replica, and of long ones. Further requests are answered "
        "with status 429.",
    )
    max_queue_ms: float = Field(
        1000.0,
        gt=0,
        allow_inf_nan=False,
        description="Maximum milliseconds that a request may have to wait in a replica. If those before it are estimated to "
        "take longer, it is answered with status 429. Requests that take long themselves may wait as long. While requests are "
        "refused, a sixteenth of it, or a full batch.",
    )
    cache: int = Field(
        0,
        ge=0,
        description="Number of inputs whose answers a replica keeps, for clients that send exactly the same again; 0: none. A "
        "new version starts with none, and while a canary or a shadow runs everything is computed.",
    )
    max_inputs: int = Field(256, ge=1, le=MAX_INPUTS, description="Maximum number of inputs in one request.")
    max_explained: int = Field(
        8,
        ge=0,
        description="Maximum number of inputs in one request whose answers are explained; 0 turns explanations off. Each takes "
        "hundreds of passes, and a key's rate counts requests only.",
    )
    max_body_bytes: int = Field(
        1_048_576, ge=1024, description="Maximum size of a request body in bytes. A larger one is answered with status 413."
    )
    abstain_below: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Score below which an answer is too unsure to act on. It is given as always, and the position of its input "
        "in the request stands in the header `x-abstain`.",
    )
    target_precision: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of right answers to aim at, instead of `abstain_below`: it becomes, for each version, the lowest "
        "score from which on its answers on the holdout were right as often.",
    )
    cors: tuple[str, ...] = Field(
        (),
        description="Origins whose web pages may read answers, for example https://shop.example; `*` allows every page. Empty: "
        "none.",
    )
    prepare_seconds: float = Field(
        300.0,
        gt=0,
        description="Maximum seconds in which a replica must load and warm a new version, to which a second is added for every "
        "5 MB that it may have to download. A version that takes longer does not take over.",
    )
    warm_megabytes: float = Field(
        1024.0,
        ge=0,
        description="Maximum size of the previous champion's files, in 10^6 bytes, up to which replicas keep it in memory. A "
        "rollback then takes less than a second. 0: it is loaded again.",
    )
    poll_seconds: float = Field(
        5.0,
        gt=0,
        description="Seconds between two reads of the registry by each replica. A read updates the champion, in case the "
        "replica missed a promotion, and the API keys: a revoked key works until the next read.",
    )

    @property
    def on_gpu(self) -> bool:
        """Whether replicas are to use a GPU."""
        return self.device == "gpu" or (self.device == "auto" and self.gpus > 0)

    @field_validator("cors")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^\s/?#@A-Z]+", origin):
                raise ValueError(
                    f"{origin!r} is not an origin as browsers send it; allowed: *, or scheme, host and port in lower case and "
                    "without a slash at the end, for example https://shop.example"
                )
        return value

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if self.abstain_below is not None and self.target_precision is not None:
            raise ValueError(
                f"abstain_below: {self.abstain_below:g} and target_precision: {self.target_precision:g} both say which answers "
                "are too unsure; give one of them"
            )
        return self

    @model_validator(mode="after")
    def _engine_has_precision(self) -> Self:
        if self.engine == "onnx" and self.on_gpu:
            raise ValueError("engine: 'onnx' runs on CPUs; for a GPU allowed: auto, torch")
        if self.precision == "int8" and (self.engine == "torch" or self.on_gpu):
            raise ValueError("precision: 'int8' needs `engine: onnx` on CPUs; allowed with torch: auto, fp32, bf16")
        if self.precision == "bf16" and self.engine == "onnx":
            raise ValueError("precision: 'bf16' needs `engine: torch`; allowed with onnx: auto, fp32, int8")
        return self
