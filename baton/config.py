"""``baton.yaml`` as pydantic models, its JSON Schema, and its mistakes as sentences.

Knows nothing of Ray, HTTP or the registry. Reads the environment only through the mapping that an entry point hands in.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from baton.errors import ConfigError, NotFound
from baton.search_space import SearchSettings, extremes
from baton.tasks import TASKS, AnyTask, task_type

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

VALIDATION_ROWS, MOST_VALIDATION = 200, 0.1
"""Enough to tell a bad epoch from a good one; every further row is missed in training."""

SectionType = TypeVar("SectionType", bound=BaseModel)


class Section(BaseModel):
    """A part of the file. Unknown keys are mistakes, and a loaded configuration does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class HttpSettings(Section):
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


class AuthSettings(Section):
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


class LoggingSettings(Section):
    """What the service's processes write about themselves."""

    format: Literal["text", "json"] = Field("text", description="json: one JSON object a line, for machines that collect logs.")
    texts: bool = Field(
        False,
        description="Let logs quote what requests said, in the messages of unexpected errors. For looking into a mistake.",
    )


class DataSettings(Section):
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


class AugmentSettings(Section):
    """How the words of training texts are altered, anew in each epoch. All 0 switches it off."""

    deletion: float = Field(0.0, ge=0, lt=1, description="Probability that a word is left out; one word always stays.")
    swap: float = Field(0.0, ge=0, lt=1, description="Probability that a word changes places with the next one.")
    noise: float = Field(
        0.0, ge=0, lt=1, description="Probability that a word gets a typing error: a letter left out, or two changed about."
    )

    @property
    def active(self) -> bool:
        """Whether anything is altered."""
        return self != AugmentSettings()


class AdaptSettings(Section):
    """A first stage of masked-language training on texts without labels, so that the encoder knows their words."""

    data: str = Field(min_length=1, description="A .txt file, one text a line, or a .jsonl file with the field `text`.")
    epochs: int = Field(3, ge=1, description="Passes over the texts.")
    learning_rate: float = Field(1.0e-4, gt=0, lt=1, description="Peak learning rate.")
    batch_size: int = Field(32, ge=1, description="Windows per optimiser step, over all workers together.")
    mask: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that the model has to guess.")

    @field_validator("data")
    @classmethod
    def _texts(cls, value: str) -> str:
        if Path(value).suffix not in (".txt", ".jsonl"):
            raise ValueError("a .txt file, one text a line, or a .jsonl file with the field `text`")
        return value


NOT_SEARCHED = ("search", "folds", "few_shot", "adapt", "validation", "workers", "device", "retries")
"""Keys of `training` that no search may try: other ways to train, where to train, and the rows that compare the trials."""


class TrainingSettings(Section):
    """How a run fine-tunes. Every key can be overridden for one run with ``baton train --set training.KEY=VALUE``."""

    start_from: Literal["base", "champion"] = Field(
        "base",
        description="champion: go on from the weights of the version that serves; outputs of new labels start fresh. A model "
        "without a champion, or with one of another task or base model, starts from its base.",
    )
    replay: float | None = Field(
        3.0,
        ge=0,
        description="With `start_from: champion`: rows that the champion knows for each row that is new to it, so that old "
        "skill stays; each label keeps its share of them. null: all of them.",
    )
    tune: Literal["full", "head", "last_n", "lora"] = Field(
        "full",
        description="full: all weights. head: encoder frozen. last_n: the last `last_n` encoder layers and the head. lora: "
        "small matrices beside the encoder's layers, merged into them afterwards, and the head.",
    )
    last_n: int = Field(2, ge=1, description="Encoder layers that `tune: last_n` trains.")
    lora_rank: int = Field(16, ge=1, description="Rank of the matrices of `tune: lora`.")
    lora_alpha: float = Field(32.0, gt=0, description="What `tune: lora` learns is scaled by lora_alpha / lora_rank.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the matrices of `tune: lora`.")
    epochs: int = Field(3, ge=1, description="Passes over the training rows.")
    learning_rate: float = Field(5.0e-5, gt=0, lt=1, description="Peak learning rate.")
    batch_size: int = Field(32, ge=1, description="Rows per optimiser step, over all workers together.")
    accumulation: int = Field(
        1, ge=1, description="Parts in which a worker takes its share of a batch, to save memory; the result is the same."
    )
    schedule: Literal["linear", "cosine"] = Field(
        "linear", description="How the learning rate falls to 0 after its peak: in a straight line, or along a half cosine."
    )
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the steps over which the learning rate rises.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay.")
    max_length: int | None = Field(
        None,
        ge=8,
        description="Longest window in tokens, in training and serving alike; by default 128, for question answering 384.",
    )
    stride: int | None = Field(
        None,
        ge=0,
        description="Tokens that neighbouring windows of a long text share; by default a quarter of max_length, for question "
        "answering a third.",
    )
    long_text: Literal["truncate", "windows"] | None = Field(
        None,
        description="What becomes of longer texts. Classification: truncate (default) cuts them; windows reads them whole, "
        "piece by piece, and averages. The other tasks always use windows.",
    )
    loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy", description="focal: rows that the model already gets right count less (for rare labels)."
    )
    focal_gamma: float = Field(2.0, gt=0, description="How much less, with `loss: focal`.")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: each label weighs as much as any other, however rare it is."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each target that is spread over all labels.")
    augment: AugmentSettings = AugmentSettings()
    validation: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the training rows that chooses the best checkpoint, never the holdout; by default about 200 "
        "rows, at most a tenth. 0: train on every row and take the last epoch.",
    )
    early_stopping: int = Field(2, ge=1, description="Stop after this many epochs without a better validation F1.")
    workers: int = Field(1, ge=1, description="Ray Train workers (data parallel).")
    cpus: int | None = Field(None, ge=1, description="Most CPUs of all workers together; by default all that are free.")
    nodes: Mapping[str, str] = Field(
        default_factory=dict, description="Ray node labels that the workers need, for example {pool: training}."
    )
    niceness: int = Field(
        10, ge=0, le=19, description="How far training yields to serving on the same machine (`nice`); 0: not at all."
    )
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto: GPUs when the cluster has them.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it.")
    retries: int = Field(2, ge=0, description="How often a run may resume from its last checkpoint after a worker died.")
    seed: int = Field(0, ge=0, description="Seed of weights, order and dropout.")
    few_shot: bool = Field(
        False,
        description="Fit a linear head on the encoder's frozen sentence embeddings instead of fine-tuning: about 8 to 50 rows "
        "a label, seconds. For classification and multi_label; epochs, learning_rate and the like have no part in it.",
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=20,
        description="Cross-validation for tiny data: as many trainings, each validated on its own part of the rows, choose the "
        "number of epochs; the version is then trained on all rows.",
    )
    search: SearchSettings | None = Field(None, description="Hyper-parameter search.")
    adapt: AdaptSettings | None = Field(None, description="First adapt the base model to the domain's unlabelled text.")

    @classmethod
    def whole_keys(cls) -> frozenset[str]:
        """The keys that take whole numbers only."""
        return frozenset(
            name
            for name, field in cls.model_fields.items()
            if int in (field.annotation, *typing.get_args(field.annotation)) and field.annotation is not bool
        )

    def validation_share(self, rows: int) -> float:
        """The share of ``rows`` training rows to validate on."""
        return min(MOST_VALIDATION, VALIDATION_ROWS / rows) if self.validation is None else self.validation

    @model_validator(mode="after")
    def _divisible(self) -> TrainingSettings:
        if self.batch_size % (self.workers * self.accumulation):
            parts = f"workers ({self.workers})" + (
                f" times accumulation ({self.accumulation})" if self.accumulation > 1 else ""
            )
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of {parts}")
        if self.adapt is not None and self.adapt.batch_size % self.workers:
            raise ValueError(f"adapt.batch_size {self.adapt.batch_size} must be a multiple of workers ({self.workers})")
        return self

    @model_validator(mode="after")
    def _one_way(self) -> TrainingSettings:
        """Each of `few_shot`, `folds` and `search` decides alone how a version comes about."""
        ways = {"few_shot": self.few_shot, "folds": self.folds is not None, "search": self.search is not None}
        chosen = [name for name, wanted in ways.items() if wanted]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other; keep one of them")
        if chosen and self.workers > 1:
            raise ValueError(f"{chosen[0]} trains in processes of one worker each; set workers to 1, not {self.workers}")
        if chosen and self.nodes:
            raise ValueError(f"{chosen[0]} cannot be bound to nodes ({dict(self.nodes)}); leave nodes out")
        if chosen and chosen[0] != "search" and self.validation is not None:
            raise ValueError(f"{chosen[0]} validates every row in its turn; leave validation ({self.validation}) out")
        if self.start_from == "champion":
            if self.adapt is not None:
                raise ValueError(
                    "adapt changes the base model, and start_from: champion does not start from it; keep one of them"
                )
            if chosen and chosen[0] != "search":
                raise ValueError(
                    f"{chosen[0]} judges by rows that were not trained on, and the champion has seen them; set start_from: base"
                )
        return self

    @model_validator(mode="after")
    def _space(self) -> TrainingSettings:
        """Every value of the search space must be one that the key takes."""
        known = [name for name in type(self).model_fields if name not in NOT_SEARCHED]
        for key, value in extremes(self.search.space) if self.search is not None else ():
            if key in NOT_SEARCHED:
                raise ValueError(f"search.space: {key} cannot be searched; allowed: {', '.join(known)}")
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(f"search.space: unknown key {key!r}; {hint}allowed: {', '.join(known)}")
            try:
                TrainingSettings.model_validate({**self.model_dump(exclude={"search"}), key: value})
            except ValidationError as error:
                problem = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
                raise ValueError(f"search.space.{key}: {value!r} is not allowed; {problem[0].lower()}{problem[1:]}") from None
        return self


class GateSettings(Section):
    """What a challenger must show before it takes over."""

    min_f1: float = Field(0.5, ge=0, le=1, description="Least holdout F1 of a model's first version.")
    min_gain: float = Field(0.0, ge=0, lt=1, description="Least gain in F1 over the champion on the same holdout.")
    confidence: float = Field(0.95, ge=0.5, lt=1, description="One-sided confidence (paired bootstrap) that the gain is real.")


class ServingSettings(Section):
    """How a model answers."""

    engine: Literal["auto", "torch"] = Field("auto", description="How a forward pass runs.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it.")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto: a GPU when Ray assigned one to the replica.")
    replicas: int = Field(1, ge=1, description="Copies of the model that answer in parallel.")
    threads: int = Field(1, ge=1, description="CPU threads of one replica's forward pass.")
    cpus: float = Field(0.0, ge=0, description="CPUs that Ray reserves for one replica; 0 leaves all to training runs.")
    gpus: float = Field(0.0, ge=0, description="GPUs that Ray reserves for one replica.")
    max_batch_tokens: int = Field(16384, ge=8, description="Most tokens, padding included, in one forward pass.")
    max_queue: int = Field(1024, ge=1, description="Requests that may wait per replica; more are answered 429.")
    max_inputs: int = Field(256, ge=1, description="Texts that one request may carry.")
    max_body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body; more is answered 413.")
    poll_seconds: float = Field(5.0, gt=0, description="How often a replica compares itself with the registry's champion.")


class FeedbackSettings(Section):
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


class RetrainSettings(Section):
    """When a run starts by itself. Without a trigger none does. A new version still has to pass the gate."""

    after_examples: int | None = Field(
        None, ge=1, description="Start when this many corrections have come in since the last run."
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
        10.0, ge=0, description="Pause after each run; it doubles with every run in a row that brought no new champion."
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


class ModelSettings(Section):
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
        kind = task_type(self.task)
        fields = list(dict.fromkeys([*(name for shape in kind.row_shapes for name in shape), *kind.optional_fields]))
        for name in self.data.fields:
            if name not in fields:
                raise ValueError(f"data.fields: {name!r} is no field of {self.task} rows; allowed: {', '.join(fields)}")
        if self.training.long_text not in (None, *kind.long_texts):
            allowed = ", ".join(kind.long_texts)
            raise ValueError(f"training.long_text: {self.training.long_text!r} is not for {self.task}; allowed: {allowed}")
        if self.training.validation == 0 and kind.calibrates():
            raise ValueError(
                f"training.validation: 0 is not for {self.task}, whose versions learn thresholds from validation rows"
            )
        if self.training.validation == 0 and self.training.search is not None:
            raise ValueError("training.validation: 0 leaves a search nothing to choose by")
        stride, most = self.training.stride or 0, self.max_length // 2
        if stride > most:
            raise ValueError(f"training.stride: {stride} is not allowed; at most {most}, half of max_length")
        if self.training.few_shot and kind.target not in ("class", "classes"):
            raise ValueError(
                f"training.few_shot: {self.task} marks places in a text, and few_shot classifies whole texts; "
                "allowed for classification and multi_label. Use tune: head"
            )
        if self.training.augment.active and not kind.alterable:
            tasks = ", ".join(name for name, other in TASKS.items() if other.alterable)
            raise ValueError(f"training.augment: altered texts would not fit their answers in {self.task}; only for {tasks}")
        if kind.target == "span" and (self.training.class_weights, self.training.loss) != ("none", "cross_entropy"):
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


class BatonConfig(Section):
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


def validate(kind: type[SectionType], raw: object, *, source: str) -> SectionType:
    """``raw`` as ``kind``; every mistake becomes one line of a single ``ConfigError``."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(kind, problem) for problem in error.errors(include_url=False)]
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


def _explain(kind: type[BaseModel], problem: Any) -> str:
    location: tuple[int | str, ...] = problem["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if problem["type"] == "extra_forbidden":
        known = _known_keys(kind, location[:-1])
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


def _known_keys(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    current: Any = kind
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
    looks_like_file = (
        path.suffix in (".jsonl", ".json", ".csv", ".parquet", ".txt") or path.exists() or value.startswith((".", "/"))
    )
    return str(path.resolve()) if looks_like_file else value
