"""One model of `baton.yaml`: its data, training, gate, serving, feedback and automatic retraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import regex
from cronsim import CronSim, CronSimError
from pydantic import Field, field_validator, model_validator

from baton.config.section import ConfigSection
from baton.config.serving_settings import ServingSettings
from baton.config.training_settings import TrainingSettings
from baton.errors import ConfigError
from baton.generation import Generation
from baton.tasks import TASKS, AnyTask, task_type

DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".parquet", ".conll", ".iob2", ".iob", ".bio", ".txt")
"""File types of labelled data. A name with another ending that is not an existing file is the id of a hub data set."""

GROUP_FIELD = "group"
"""Name in ``data.fields`` of the column whose equal values belong together. No task has such a field."""


class DataSettings(ConfigSection):
    """Labelled data for training and for evaluation."""

    train: str | None = Field(
        None,
        min_length=1,
        description="Training data: a file (.jsonl, .json, .csv, .tsv, .parquet, .conll), its URL (s3://…), or the id of a "
        "Hugging Face data set, of which the split train is used. Without it no version is trained; `baton register` brings "
        "versions from elsewhere, which `holdout` judges if it is a file.",
    )
    holdout: str | float = Field(
        0.2,
        description="Data to evaluate on, which is never trained on: a file, its URL, the id of a Hugging Face data set "
        "(split test), or the fraction of the training data to hold out (between 0 and 1, both excluded).",
    )
    fields: Mapping[str, Annotated[str, Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Names of columns that differ from the names of the task's fields, by field. Example: {text: body, "
        "label: intent}. The field `group` names a column whose equal values belong together, such as a customer or a "
        "document: no group is in both splits, and the gate counts each once.",
    )
    slices: tuple[str, ...] = Field(
        (),
        description="Columns of the declared holdout rows, such as language or channel. A version that clearly loses more than "
        "`gate.max_class_drop` on the rows with one of their values is refused.",
    )
    conflicts: Literal["latest", "majority"] = Field(
        "latest",
        description="Which answer to use for a text that has different answers. latest: the newest one, where rows of "
        "`train` are older than all feedback. majority: the most frequent one; of equally frequent ones, the newest.",
    )
    new_label_after: int = Field(
        5,
        ge=1,
        description="Number of different texts that corrections with a new label must have before the label becomes a class. "
        "Until then they wait in quarantine, so that a typing error makes no class.",
    )

    max_sender_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Maximum share of the training rows that corrections of one API key may have. 1: no limit. The newest rows "
        "are used. `baton datasets MODEL N` shows the shares.",
    )

    @field_validator("slices", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(f"give a list of columns: [{value}]")
        return value

    @field_validator("holdout", mode="before")
    @classmethod
    def _file_or_fraction(cls, value: object) -> object:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (isinstance(value, str) and value.strip()) or (number and 0 < float(str(value)) < 1):
            return value
        raise ValueError("give a fraction between 0 and 1 (both excluded), or a file name")

    @property
    def judges(self) -> bool:
        """Whether the data have a holdout, on which versions can be evaluated."""
        return self.train is not None or isinstance(self.holdout, str)

    @property
    def group_column(self) -> str | None:
        """The column whose equal values belong together; None without one."""
        return self.fields.get(GROUP_FIELD)

    @property
    def holdout_source(self) -> str:
        """Where the holdout comes from, in words for the record of a data set."""
        return self.holdout if isinstance(self.holdout, str) else f"{self.holdout:g} of {self.train or 'nothing'}"


class GateSettings(ConfigSection):
    """Conditions that a new version must meet before it replaces the champion."""

    min_f1: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Minimum F1 of a model's first version, which has no champion to beat. The lower confidence bound of its "
        "F1 must reach it.",
    )
    min_gain: float = Field(
        0.0, ge=0, lt=1, description="Minimum gain in F1 over the champion on the same holdout: 0.01 is one point of F1."
    )
    confidence: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="1 minus the allowed probability that any version takes over from one champion without being better, "
        "however many versions are tried. Higher values need larger gains or holdouts.",
    )
    max_drop: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="Allowed loss of F1 on a part of the holdout (the declared rows, the audited requests, the labels that "
        "both versions know). A larger loss must be unlikely.",
    )
    max_class_drop: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Allowed loss of F1 on a single label (classification), or on a slice (`data.slices`). A version that "
        "clearly loses more is refused.",
    )
    max_megabytes: float | None = Field(
        None, gt=0, description="Maximum size of a version's files in 10^6 bytes. A larger version is refused."
    )
    max_latency_ms: float | None = Field(
        None,
        gt=0,
        description="Maximum time in milliseconds of one answer: the median over single inputs of the holdout, measured on the "
        "machine that evaluates, with `serving.threads` threads. A slower version is refused.",
    )
    min_rows: int = Field(
        30, ge=1, description="Minimum number of different texts (in question answering: contexts) that the holdout must have."
    )


LONGEST_TRIAL_MINUTES = 366 * 24 * 60
"""A year. One without an end is better ended by hand."""

MAX_CANARY_PERCENT = 50.0
"""Most requests that a canary answers: it is compared with the champion on the others."""


class RolloutSettings(ConfigSection):
    """How versions that passed the gate come into service, and what ends a canary or a shadow early."""

    canary: float = Field(
        0.0,
        ge=0,
        le=MAX_CANARY_PERCENT,
        description="Percent of the requests that a version which passed the gate answers before it takes over. 0: it takes "
        "over at once.",
    )
    minutes: float = Field(
        15.0, gt=0, le=LONGEST_TRIAL_MINUTES, description="Minutes of such a canary; only those in which replicas run it count."
    )
    confidence: float = Field(
        0.99,
        ge=0.5,
        lt=1,
        description="1 minus the allowed probability that a canary or shadow is ended for failures or wrong answers, although "
        "the version has no more of them than the champion.",
    )
    max_latency_ratio: float = Field(
        3.0,
        gt=1,
        description="Maximum time of the version over the champion's, for the same inputs. A slower version goes back.",
    )


class FeedbackSettings(ConfigSection):
    """The prediction log, and whether corrections are accepted."""

    accept: bool = Field(True, description="Accept corrections. If false, they are answered with status 409.")
    log: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of requests whose answers are logged, between 0 and 1; 0 switches the prediction log off. A "
        "correction of a logged answer needs only the request id. Live quality and drift are measured on logged answers.",
    )
    max_per_day: int | None = Field(
        None,
        ge=1,
        description="Maximum number of corrections that one API key may have stored within 24 hours; calls without a key count "
        "as one key. More are answered with status 429. Labels of the audit do not count. Default: no limit.",
    )
    retention_days: float = Field(
        30.0,
        gt=0,
        description="Days after which logged answers are deleted, and the list of replaced and withdrawn corrections. "
        "Corrections are kept.",
    )
    audit: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="Share of logged texts that people are asked to label, whatever the answer was (`baton audit`). They are "
        "never trained on, and judge once a batch of 50 is labelled. A keyed hash of the text decides.",
    )
    redact: tuple[str, ...] = Field(
        (),
        description="Regular expressions. Text that matches one of them is masked in the prediction log; a text that a pattern "
        "searches for too long is masked whole.",
    )

    @field_validator("redact")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                regex.compile(pattern)
            except regex.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return value


class RetrainSettings(ConfigSection):
    """Triggers of automatic retraining. Without a trigger no run starts automatically. Every new version must pass the gate."""

    after_examples: int | None = Field(
        None,
        ge=1,
        description="Start a run when this many corrections have arrived since the data of the newest version were frozen.",
    )
    every: str | None = Field(
        None, description="Start a run on a cron schedule in UTC with five fields. Example: `0 3 * * *`, every night at three."
    )
    on_drift: bool = Field(
        False,
        description="Start a run when predicted labels, confidences or text lengths have drifted away from those on the "
        "holdout.",
    )
    live_f1_below: float | None = Field(
        None, gt=0, le=1, description="Start a run when the champion's F1 on corrected answers falls below this value."
    )
    window: int = Field(
        500, ge=50, le=10_000, description="Number of newest answers (for drift) or corrections (for live F1) to measure."
    )
    cooldown_minutes: float = Field(
        10.0,
        ge=0,
        description="Minutes to wait after each run. The wait doubles with each consecutive run that gave no new champion, and "
        "is then at least half a minute.",
    )

    @property
    def active(self) -> bool:
        """Whether any trigger is set."""
        return self.on_drift or any(it is not None for it in (self.after_examples, self.every, self.live_f1_below))

    @field_validator("every")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                next(CronSim(value, datetime(2024, 1, 1, tzinfo=UTC)))
            except (CronSimError, StopIteration) as error:
                raise ValueError(f"five fields (minute hour day month weekday), for example '0 3 * * *': {error}") from None
        return value


class ModelSettings(ConfigSection):
    """One model."""

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$",
        description="Name in URLs and commands: 1 to 63 characters a-z, 0-9, - and _; the first and last are a letter or a "
        "digit.",
    )
    task: str = Field(
        description="Task of the model. It determines the form of inputs, answers and training rows (docs/tasks.md).",
        json_schema_extra={"enum": list(TASKS)},
    )
    base_model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        min_length=1,
        description="Model to start training from: a Hugging Face id or a directory.",
    )
    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()
    gate: GateSettings = GateSettings()
    serving: ServingSettings = ServingSettings()
    rollout: RolloutSettings = RolloutSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    retrain: RetrainSettings = RetrainSettings()

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str) -> str:
        if value not in TASKS:
            raise ValueError(f"known tasks: {', '.join(TASKS)}")
        return value

    @model_validator(mode="after")
    def _data_for_runs(self) -> ModelSettings:
        if self.data.train is None and self.retrain.active:
            raise ValueError("retrain: its runs need data to train on; declare data.train, or leave retrain out")
        return self

    @model_validator(mode="after")
    def _fit_for_task(self) -> ModelSettings:
        task_cls = task_type(self.task)
        fields = list(dict.fromkeys([*(name for shape in task_cls.row_shapes for name in shape), *task_cls.optional_fields]))
        for name in self.data.fields:
            if name not in (*fields, GROUP_FIELD):
                allowed = ", ".join([*fields, GROUP_FIELD])
                raise ValueError(f"data.fields: {name!r} is not a field of {self.task} rows; allowed: {allowed}")
        if self.training.long_text not in (None, *task_cls.long_texts):
            allowed = ", ".join(task_cls.long_texts)
            raise ValueError(
                f"training.long_text: {self.training.long_text!r} is not allowed for {self.task}; allowed: {allowed}"
            )
        if self.training.validation == 0 and task_cls.calibrates():
            raise ValueError(
                f"training.validation: 0 is not allowed for {self.task}, whose versions learn thresholds from validation rows; "
                "leave it out, or give a share above 0"
            )
        if self.training.validation == 0 and self.training.search is not None:
            raise ValueError(
                "training.validation: 0 leaves a search no rows to compare its trials on; leave it out, or give a share above 0"
            )
        stride, maximum = self.training.stride or 0, self.max_length // 2
        if stride > maximum:
            raise ValueError(f"training.stride: {stride} is not allowed; at most {maximum}, half of max_length")
        if self.training.augment.active and not task_cls.augmentable:
            tasks = ", ".join(name for name, other in TASKS.items() if other.augmentable)
            raise ValueError(f"training.augment: altered texts would not fit their answers in {self.task}; only for {tasks}")
        if task_cls.target in ("span", "text") and (self.training.class_weights, self.training.loss) != (
            "none",
            "cross_entropy",
        ):
            raise ValueError(f"training: {self.task} has no labels to weight; class_weights: none and loss: cross_entropy only")
        return self

    @model_validator(mode="after")
    def _writes(self) -> ModelSettings:
        """Only models of some tasks write; they have no head, no masks to adapt with, and are not exported."""
        training, serving = self.training, self.serving
        if task_type(self.task).target != "text":
            if training.generation is not None:
                raise ValueError(f"training.generation: models for {self.task} write no texts; leave it out")
            return self
        if training.tune not in ("full", "lora"):
            raise ValueError(
                f"training.tune: {training.tune!r} is not allowed for {self.task}, whose models have no head to train; "
                "allowed: full, lora"
            )
        if training.adapt is not None:
            raise ValueError(f"training.adapt: it is for encoders; models for {self.task} are not adapted")
        if training.prune is not None or training.distil is not None:
            raise ValueError(f"training: models for {self.task} are neither pruned nor distilled; leave prune and distil out")
        if serving.engine == "onnx" or serving.precision == "int8":
            raise ValueError(
                f"serving: models for {self.task} are run by torch; allowed: engine auto or torch, precision auto, fp32 or bf16"
            )
        return self

    @model_validator(mode="after")
    def _classifies(self) -> ModelSettings:
        """A linear head on the embedding of a text gives one answer for the whole text."""
        if task_type(self.task).target in ("class", "classes"):
            return self
        if self.training.few_shot:
            raise ValueError(
                f"training.few_shot: it classifies whole texts, and {self.task} does not; allowed for classification and "
                "multi_label"
            )
        if self.training.start_from == "probe":
            raise ValueError(
                f"training.start_from: a probe classifies whole texts, and {self.task} does not; allowed: base, champion"
            )
        return self

    @property
    def max_length(self) -> int:
        """Maximum number of tokens in a window."""
        return self.training.max_length or task_type(self.task).default_max_length

    @property
    def new_tokens(self) -> int:
        """Maximum number of tokens that the model writes for an answer; 0 if it writes none."""
        return (self.training.generation or Generation()).max_new_tokens if task_type(self.task).target == "text" else 0

    def check_trainable(self, declared: DataSettings) -> None:
        """Raise ``ConfigError`` unless a run with these settings has data to train on, and the ``declared`` data a holdout."""
        if self.data.train is None or not declared.judges:
            missing = "data.train" if self.data.train is None else "data.holdout"
            raise ConfigError(
                f"{self.name} declares no {missing}, so that no version of it can be trained; declare it in baton.yaml, or "
                f"bring a version that is trained already: `baton register {self.name} DIRECTORY`"
            )

    def make_task(self, labels: Sequence[str]) -> AnyTask:
        """Return the task with these settings, for a model with these labels."""
        training = self.training
        task = task_type(self.task)(labels, self.max_length, stride=training.stride, long_text=training.long_text)
        task.generation = training.generation or task.generation
        return task
