"""The key `training` of `baton.yaml`: how a run trains."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from baton.config.search_space import SearchSettings, extremes
from baton.config.section import ConfigSection
from baton.generation import Generation
from baton.validation import not_allowed

VALIDATION_ROWS, MAX_VALIDATION = 200, 0.1
"""Default number of validation rows, and their maximum share of all rows. 200 rows suffice to tell a bad epoch from a good one,
and every further row is lost to training."""


class AugmentSettings(ConfigSection):
    """Random changes to the words of training texts, different in each epoch. Off if all are 0."""

    deletion: float = Field(0.0, ge=0, lt=1, description="Probability that a word is deleted; at least one word is kept.")
    swap: float = Field(0.0, ge=0, lt=1, description="Probability that a word is swapped with the next one.")
    noise: float = Field(
        0.0, ge=0, lt=1, description="Probability that a word gets a typing error: one letter deleted, or two letters swapped."
    )

    @property
    def active(self) -> bool:
        """Whether any probability is above 0."""
        return self != AugmentSettings()


class AdaptSettings(ConfigSection):
    """Masked-language training on texts without labels before the fine-tuning, so that the encoder learns their words."""

    data: str = Field(
        min_length=1, description="Texts: a .txt file with one text per line, or a .jsonl file with the field `text`."
    )
    epochs: int = Field(3, ge=1, description="Number of passes over the texts.")
    learning_rate: float = Field(1.0e-4, gt=0, lt=1, description="Maximum learning rate, reached after the warm-up.")
    batch_size: int = Field(32, ge=1, description="Windows per optimiser step, over all workers.")
    mask: float = Field(0.15, gt=0, lt=1, description="Share of tokens that the model must predict.")

    @field_validator("data")
    @classmethod
    def _texts(cls, value: str) -> str:
        if Path(value).suffix not in (".txt", ".jsonl"):
            raise ValueError("give a .txt file with one text per line, or a .jsonl file with the field `text`")
        return value


class PruneSettings(ConfigSection):
    """A smaller network: what does least for the texts of the training rows is removed before the training. The base model's
    layers and units are counted, so that a model that was pruned already stays as it is."""

    layers: int | None = Field(None, ge=1, description="Number of encoder layers to keep. null: all.")
    units: float = Field(
        0.0, ge=0, lt=1, description="Share of the feed-forward units of each layer that is removed: 0.3 removes three of ten."
    )

    @model_validator(mode="after")
    def _removes_something(self) -> PruneSettings:
        if self.layers is None and not self.units:
            raise ValueError("it removes nothing; set layers, units or both")
        return self


class DistilSettings(ConfigSection):
    """A teacher: the training imitates its scores, which tell more of a text than a label does."""

    teacher: str = Field(
        "champion",
        min_length=1,
        description="champion: the version that serves. Otherwise a directory with a trained model of the same task and the "
        "same tokenizer.",
    )
    temperature: float = Field(
        2.0, ge=1, le=20, description="Both models' logits are divided by it: the higher, the more the unlikely labels count."
    )
    weight: float = Field(
        0.9, gt=0, le=1, description="Share of the teacher's scores in the loss; the rest is that of the labels."
    )


NOT_SEARCHED = (
    *("method", "start_from", "search", "folds", "few_shot", "adapt", "prune", "distil"),
    *("validation", "workers", "device", "retries"),
)
"""Keys of `training` that no search may vary: other training methods, where to train, and the rows that compare the trials."""


class TrainingSettings(ConfigSection):
    """How a run trains. Override a key for one run with ``baton train --set training.KEY=VALUE``."""

    method: Literal["auto", "fine_tune"] = Field(
        "auto",
        description="How keys that you leave out are chosen. auto: by the task, the base model and the number of rows; the run "
        "says what it chose, and why. fine_tune: plain fine-tuning, with `start_from: base`, 3 epochs and a learning rate of "
        "5e-5.",
    )
    start_from: Literal["base", "probe", "champion"] | None = Field(
        None,
        description="Weights to start from. base: those of `base_model`, and a new head. probe: those of `base_model`, and a "
        "head that is fitted to its frozen sentence embeddings first (only for classification and multi_label). champion: "
        "those of the version that serves; weights of new labels are newly initialised. If there is no champion, or its task "
        "or base model differs, the run is like one without this key. Default: chosen by `method`.",
    )
    replay: float | None = Field(
        3.0,
        ge=0,
        description="With `start_from: champion`: number of rows known to the champion to train on for each row that is new, "
        "so that the model does not forget. Each label keeps its share of the known rows. null: all known rows.",
    )
    tune: Literal["full", "head", "last_n", "lora"] = Field(
        "full",
        description="Weights to train. full: all. head: only the head. last_n: the last `last_n` encoder layers and the "
        "head. lora: low-rank matrices added to the encoder's layers (merged into them after training) and the head.",
    )
    last_n: int = Field(2, ge=1, description="With `tune: last_n`: number of encoder layers to train.")
    lora_rank: int = Field(16, ge=1, description="With `tune: lora`: rank of the matrices.")
    lora_alpha: float = Field(
        32.0, gt=0, description="With `tune: lora`: the product of the matrices is scaled by lora_alpha / lora_rank."
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="With `tune: lora`: probability of dropout before the matrices.")
    epochs: int | None = Field(
        None,
        ge=1,
        description="Maximum number of passes over the training rows; see `early_stopping`. Default: chosen by `method`.",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Maximum learning rate, reached after the warm-up. Default: chosen by `method`.",
    )
    batch_size: int = Field(
        32, ge=1, description="Rows per optimiser step, over all workers. It must be a multiple of workers times accumulation."
    )
    accumulation: int = Field(
        1,
        ge=1,
        description="Number of parts that a worker splits its share of a batch into, to save memory. The result is the same.",
    )
    schedule: Literal["linear", "cosine"] = Field(
        "linear", description="How the learning rate falls to 0 after the warm-up: linearly, or along half a cosine."
    )
    warmup_ratio: float = Field(
        0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises linearly from 0."
    )
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    max_length: int | None = Field(
        None,
        ge=8,
        description="Maximum number of tokens in a window, in training and in serving. Default: 384 for question answering, "
        "else 128.",
    )
    stride: int | None = Field(
        None,
        ge=0,
        description="Tokens that neighbouring windows of a long text share, at most half of max_length. Default: a third of "
        "max_length for question answering, else a quarter.",
    )
    long_text: Literal["truncate", "windows"] | None = Field(
        None,
        description="How to handle texts longer than max_length. truncate (the default of classification): cut them. "
        "windows: read the whole text in overlapping windows and average their scores. Other tasks always use windows.",
    )
    generation: Generation | None = Field(
        None,
        description="Only for seq2seq: how answers are written, in evaluation and in serving. Requests may ask for shorter "
        "ones and for other beams. null: at most 128 tokens, greedily.",
    )
    loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy",
        description="Loss function. focal: rows that the model already gets right count less, which helps rare labels.",
    )
    focal_gamma: float = Field(
        2.0, gt=0, description="With `loss: focal`: exponent γ of the factor (1 − p)^γ. Higher values count easy rows less."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="Weights of labels in the loss. balanced: all labels have the same total weight, however rare they are.",
    )
    label_smoothing: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of each target that is spread evenly over all labels, between 0 and 1. Default: chosen by `method`.",
    )
    augment: AugmentSettings = AugmentSettings()
    validation: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the training rows to choose the best checkpoint by (the holdout is never used for that). "
        "0: train on all rows and use the last epoch. Default: chosen by `method`; if rows are needed, about 200, at most a "
        "tenth.",
    )
    early_stopping: int = Field(2, ge=1, description="Stop after this many consecutive epochs without a better validation F1.")
    workers: int = Field(1, ge=1, description="Number of Ray Train workers, which share each batch (data parallel).")
    cpus: int | None = Field(None, ge=1, description="Maximum number of CPUs of all workers together. Default: all free CPUs.")
    nodes: Mapping[str, str] = Field(
        default_factory=dict, description="Ray node labels that a node must have to run workers. Example: {pool: training}."
    )
    niceness: int = Field(
        10,
        ge=0,
        le=19,
        description="Niceness (`nice`) of training processes, so that serving on the same machine gets the CPU first. 0: "
        "same priority.",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Device of the workers. auto: GPUs if the cluster has any."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Number format of training. auto: bf16 if the hardware supports it, else fp32."
    )
    retries: int = Field(2, ge=0, description="How many times a run may resume from its last checkpoint after a worker died.")
    seed: int = Field(0, ge=0, description="Seed of all random choices: new weights, the order of rows, dropout.")
    few_shot: bool | None = Field(
        None,
        description="Fit a linear head on frozen sentence embeddings instead of fine-tuning. Takes seconds; meant for about "
        "8 to 50 rows per label. Only for classification and multi_label. Ignores epochs, learning_rate and similar keys. "
        "Default: chosen by `method`.",
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=20,
        description="Number of folds of a cross-validation, for very small data. Each fold trains on the other folds and "
        "validates on its own rows. Together they choose the number of epochs for the version, which is trained on all rows.",
    )
    search: SearchSettings | None = Field(None, description="Hyper-parameter search; null: none.")
    adapt: AdaptSettings | None = Field(
        None, description="Adapt the base model to unlabelled texts of the domain before fine-tuning; null: do not."
    )
    prune: PruneSettings | None = Field(None, description="Make the network smaller before training; null: do not.")
    distil: DistilSettings | None = Field(None, description="Imitate the scores of a larger version or model; null: do not.")

    @classmethod
    def whole_keys(cls) -> frozenset[str]:
        """Return the keys that take only whole numbers."""
        return frozenset(
            name
            for name, field in cls.model_fields.items()
            if int in (field.annotation, *typing.get_args(field.annotation)) and field.annotation is not bool
        )

    def validation_share(self, rows: int) -> float:
        """Return the share of ``rows`` training rows to validate on."""
        return min(MAX_VALIDATION, VALIDATION_ROWS / rows) if self.validation is None else self.validation

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
        """`few_shot`, `folds` and `search` exclude each other, and restrict other keys."""
        ways = {"few_shot": bool(self.few_shot), "folds": self.folds is not None, "search": self.search is not None}
        chosen = [name for name, wanted in ways.items() if wanted]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other; keep one of them")
        if chosen and self.workers > 1:
            raise ValueError(f"{chosen[0]} trains in processes of one worker each; set workers to 1, not {self.workers}")
        if chosen and self.nodes:
            raise ValueError(f"{chosen[0]} cannot be bound to nodes ({dict(self.nodes)}); leave nodes out")
        if chosen and chosen[0] != "search" and self.distil is not None:
            raise ValueError(f"{chosen[0]} has no use for a teacher; keep distil or {chosen[0]}")
        if chosen and chosen[0] != "search" and self.validation is not None:
            raise ValueError(f"{chosen[0]} validates on every row once; leave validation ({self.validation}) out")
        if self.start_from == "probe" and chosen and chosen[0] != "search":
            raise ValueError(f"{chosen[0]} validates on rows that the probe is fitted to; set start_from: base")
        if self.start_from == "champion":
            if self.adapt is not None:
                raise ValueError(
                    "adapt changes the base model, and start_from: champion does not start from it; keep one of them"
                )
            if chosen and chosen[0] != "search":
                raise ValueError(
                    f"{chosen[0]} validates on rows not trained on, but the champion has seen them; set start_from: base"
                )
        return self

    @model_validator(mode="after")
    def _space(self) -> TrainingSettings:
        """Every value of the search space must be allowed for its key."""
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
                raise ValueError(f"search.space.{key}: {not_allowed(repr(value), error.errors()[0]['msg'])}") from None
        return self
