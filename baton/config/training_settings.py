"""How a run fine-tunes: `training` in `baton.yaml`."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from baton.config.search_space import SearchSettings, extremes
from baton.config.section import ConfigSection

VALIDATION_ROWS, MOST_VALIDATION = 200, 0.1
"""Enough to tell a bad epoch from a good one; every further row is missed in training."""


class AugmentSettings(ConfigSection):
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


class AdaptSettings(ConfigSection):
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


class TrainingSettings(ConfigSection):
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
