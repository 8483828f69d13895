"""One model of `baton.yaml`: its data, its training, its gate, how it answers, what it learns from afterwards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from cronsim import CronSim, CronSimError
from pydantic import Field, field_validator, model_validator

from baton.config.section import ConfigSection
from baton.config.training_settings import TrainingSettings
from baton.tasks import TASKS, AnyTask, task_type

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
"""File types of labelled data. A name that ends otherwise, and is no file, is the id of a hub data set."""


class DataSettings(ConfigSection):
    """Labelled data to train on and to judge by."""

    train: str = Field(
        min_length=1, description="A .jsonl, .csv or .parquet file, its URL (s3://…), or a `datasets` id (split train)."
    )
    holdout: str | float = Field(
        0.2,
        description="A file or `datasets` id (split test) never trained on, or the fraction of train to set aside (0 < f < 1).",
    )
    fields: Mapping[str, Annotated[str, Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Names of the columns that hold the task's fields, where they differ: {text: body, label: intent}.",
    )
    conflicts: Literal["latest", "majority"] = Field(
        "latest",
        description="What a text's answer is when it came with different ones. latest: the newest; rows of `train` are older "
        "than all feedback. majority: the most frequent, of equally frequent ones the newest.",
    )
    feedback_holdout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of new texts from feedback that go to the holdout for ever; a stable hash of the text decides.",
    )

    @field_validator("holdout", mode="before")
    @classmethod
    def _file_or_fraction(cls, value: object) -> object:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (isinstance(value, str) and value.strip()) or (number and 0 < float(str(value)) < 1):
            return value
        raise ValueError("a fraction between 0 and 1 (both excluded), or a file name")


class GateSettings(ConfigSection):
    """What a challenger must show before it takes over."""

    min_f1: float = Field(0.5, ge=0, le=1, description="Least holdout F1 of a model's first version.")
    min_gain: float = Field(0.0, ge=0, lt=1, description="Least gain in F1 over the champion on the same holdout.")
    confidence: float = Field(0.95, ge=0.5, lt=1, description="One-sided confidence (paired bootstrap) that the gain is real.")


class ServingSettings(ConfigSection):
    """How a model answers."""

    engine: Literal["auto", "torch"] = Field("auto", description="How a forward pass runs.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it.")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto: a GPU when Ray assigned one to the replica.")
    replicas: int = Field(1, ge=1, description="Copies of the model that answer in parallel.")
    threads: int = Field(1, ge=1, description="CPU threads of one replica's forward pass.")
    cpus: float = Field(0.0, ge=0, description="CPUs that Ray reserves for one replica; 0 leaves all to training runs.")
    gpus: float = Field(0.0, ge=0, description="GPUs that Ray reserves for one replica.")
    nodes: Mapping[str, str] = Field(
        default_factory=dict, description="Ray node labels that the replicas need, for example {pool: serving}."
    )
    max_batch_tokens: int = Field(16384, ge=8, description="Most tokens, padding included, in one forward pass.")
    max_queue: int = Field(1024, ge=1, description="Requests that may wait per replica; more are answered 429.")
    max_inputs: int = Field(256, ge=1, description="Texts that one request may carry.")
    max_body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body; more is answered 413.")
    poll_seconds: float = Field(5.0, gt=0, description="How often a replica compares itself with the registry's champion.")


class FeedbackSettings(ConfigSection):
    """What is kept of answers, and whether corrections are taken."""

    accept: bool = Field(True, description="Take corrections at all; without, they are answered 409.")
    log: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the requests whose answers are logged; 0 switches the log off. Corrections of logged answers "
        "need only the request id, and live quality and drift are measured on them.",
    )
    retention_days: float = Field(30.0, gt=0, description="Age at which logged answers are deleted. Corrections stay.")
    redact: tuple[str, ...] = Field((), description="Regular expressions; what they match is masked in the log.")

    @field_validator("redact")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return value


class RetrainSettings(ConfigSection):
    """When a run starts by itself. Without a trigger none does. A new version still has to pass the gate."""

    after_examples: int | None = Field(
        None, ge=1, description="Start when this many corrections have come in since those that the newest version looked at."
    )
    every: str | None = Field(None, description="Cron schedule in UTC, five fields: `0 3 * * *` is every night at three.")
    on_drift: bool = Field(
        False, description="Start when predicted labels, confidence or text length have moved away from the holdout's."
    )
    live_f1_below: float | None = Field(
        None, gt=0, le=1, description="Start when the champion's F1 on corrected answers falls below this."
    )
    window: int = Field(500, ge=50, le=10_000, description="Newest answers or corrections that drift and live F1 look at.")
    cooldown_minutes: float = Field(
        10.0,
        ge=0,
        description="Pause after each run; it doubles with every run in a row that brought no new champion, from half a minute "
        "at least.",
    )

    @field_validator("every")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                next(CronSim(value, datetime(2024, 1, 1, tzinfo=UTC)))
            except (CronSimError, StopIteration) as error:
                raise ValueError(f"five fields (minute hour day month weekday), for example '0 3 * * *': {error}") from None
        return value

    @property
    def triggers(self) -> bool:
        """Whether anything starts a run."""
        return bool(self.after_examples or self.every or self.on_drift or self.live_f1_below)


class ModelSettings(ConfigSection):
    """One model: what it does, what it learns from, when it may change, how it answers."""

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$", description="Name in URLs and commands: a-z, 0-9, - and _."
    )
    task: str = Field(description="What the model does.", json_schema_extra={"enum": list(TASKS)})
    base_model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", min_length=1, description="Hugging Face id or directory to start from."
    )
    data: DataSettings
    training: TrainingSettings = TrainingSettings()
    gate: GateSettings = GateSettings()
    serving: ServingSettings = ServingSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    retrain: RetrainSettings = RetrainSettings()

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str) -> str:
        if value not in TASKS:
            raise ValueError(f"known tasks: {', '.join(TASKS)}")
        return value

    @model_validator(mode="after")
    def _fit_for_task(self) -> ModelSettings:
        task_cls = task_type(self.task)
        fields = list(dict.fromkeys([*(name for shape in task_cls.row_shapes for name in shape), *task_cls.optional_fields]))
        for name in self.data.fields:
            if name not in fields:
                raise ValueError(f"data.fields: {name!r} is no field of {self.task} rows; allowed: {', '.join(fields)}")
        if self.training.long_text not in (None, *task_cls.long_texts):
            allowed = ", ".join(task_cls.long_texts)
            raise ValueError(f"training.long_text: {self.training.long_text!r} is not for {self.task}; allowed: {allowed}")
        if self.training.validation == 0 and task_cls.calibrates():
            raise ValueError(
                f"training.validation: 0 is not for {self.task}, whose versions learn thresholds from validation rows"
            )
        if self.training.validation == 0 and self.training.search is not None:
            raise ValueError("training.validation: 0 leaves a search nothing to choose by")
        stride, most = self.training.stride or 0, self.max_length // 2
        if stride > most:
            raise ValueError(f"training.stride: {stride} is not allowed; at most {most}, half of max_length")
        if self.training.few_shot and task_cls.target not in ("class", "classes"):
            raise ValueError(
                f"training.few_shot: {self.task} marks places in a text, and few_shot classifies whole texts; "
                "allowed for classification and multi_label. Use tune: head"
            )
        if self.training.augment.active and not task_cls.alterable:
            tasks = ", ".join(name for name, other in TASKS.items() if other.alterable)
            raise ValueError(f"training.augment: altered texts would not fit their answers in {self.task}; only for {tasks}")
        if task_cls.target == "span" and (self.training.class_weights, self.training.loss) != ("none", "cross_entropy"):
            raise ValueError(f"training: {self.task} has no labels to weigh; class_weights: none and loss: cross_entropy only")
        return self

    @property
    def max_length(self) -> int:
        """Longest window in tokens."""
        return self.training.max_length or task_type(self.task).default_max_length

    def make_task(self, labels: Sequence[str]) -> AnyTask:
        """The task as these settings want it, for a model with these labels."""
        training = self.training
        return task_type(self.task)(labels, self.max_length, stride=training.stride, long_text=training.long_text)
