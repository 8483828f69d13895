"""What each Ray Train worker runs: a Hugging Face `Trainer` on the task's own features.

Rank 0 saves a checkpoint each epoch, and every rank reports it; a restarted worker goes on from the last one.
"""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import ray.train
import torch
import transformers

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.config.training_settings import TrainingSettings
from baton.engines.torch_engine import bf16_pays
from baton.errors import Conflict, DataError, RegistryError
from baton.predict.predictor import load_tokenizer
from baton.store.registry import Registry
from baton.tasks import AnyTask, task_type
from baton.tasks.base import Windows
from training.data.augmentation import AugmentedDataset, ReaugmentCallback
from training.data.batches import Collator, OrderedTrainer, encode, features, training_features
from training.fit import start, weights
from training.fit.checkpoints import checkpoint_directory, write_note
from training.fit.dropout import quicken
from training.fit.log import set_up_worker
from training.fit.losses import loss_function
from training.fit.priority import settle
from training.fit.request import WorkerConfig
from training.fit.start import Start
from training.fit.tuning import tune
from training.fit.vocabulary import narrow

LONG_WINDOWS = 64
"""Mean tokens of a window from which plain attention code is faster in training on CPUs. With dropout, torch's fused attention
falls back to slow code there: 1.5 times a whole step at 220 tokens; at 17 tokens there is no difference."""

REPORT_SECONDS = 1.0
"""Least time between two progress reports."""


def train(config: dict[str, Any]) -> None:
    """Fine-tune as ``WorkerConfig(**config["worker_config"])`` says; report one checkpoint an epoch.

    The entry point of Ray Train's workers.
    """
    worker_config = WorkerConfig(**config["worker_config"])
    settings = ModelSettings.model_validate(worker_config.settings)
    set_up_worker(run_id=worker_config.run_id, model=settings.name)
    settle(worker_config.threads, settings.training)
    with tempfile.TemporaryDirectory(prefix="baton-train-") as scratch:
        trainer = build_trainer(worker_config, settings, Path(scratch), ray.train.get_context().get_world_size())
        trainer.add_callback(Reporter(worker_config, settings.training.early_stopping))
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            trainer.train()
        else:
            with checkpoint.as_directory() as directory:
                trainer.train(resume_from_checkpoint=directory)


def build_trainer(worker_config: WorkerConfig, settings: ModelSettings, scratch: Path, world_size: int) -> transformers.Trainer:
    """The configured `Trainer` of one of ``world_size`` workers; all that is random is seeded."""
    training = settings.training
    transformers.set_seed(training.seed)  # the fresh head's weights, and the adapters'
    storage, begin = Storage(worker_config.storage, patient=True), Start(**worker_config.start)
    origin = weights.fetch(begin, settings, storage, scratch / "parent")
    wrapper = transformers.AutoTokenizer.from_pretrained(str(origin.directory), local_files_only=True, trust_remote_code=False)
    wrapper.save_pretrained(str(scratch / "tokenizer"))
    (scratch / "tokenizer" / "config.json").write_bytes((origin.directory / "config.json").read_bytes())
    tokenizer, pad_id = load_tokenizer(scratch / "tokenizer")
    task_cls = task_type(settings.task)
    task = settings.make_task(worker_config.labels)
    tokenizer = task.prepare_tokenizer(tokenizer)
    selected = start.rows(begin, settings, storage, worker_config.dataset_uri, worker_config.fold)
    if not selected.validation and training.folds is None and training.validation != 0:
        raise DataError(
            f"{len(selected.train)} training row(s) leave none for validation; at least one label needs two texts "
            "(in question answering: two contexts are needed)"
        )
    # batches of like lengths need little padding
    validation_rows = sorted(selected.validation, key=lambda row: len(task_cls.content(row)))
    model = origin.model(task_cls, worker_config.labels)
    if task_cls.target == "classes":
        model.config.problem_type = "multi_label_classification"  # transformers' own pipelines then answer as we do
    tune(model, training)
    train: Sequence[Any]
    callbacks = []
    if training.augment.active:
        train = AugmentedDataset(task, tokenizer, selected.train, training.augment, training.seed)
        seen = train.token_ids(training.epochs)
        callbacks = [ReaugmentCallback(train)]
    else:
        train = training_features(task, tokenizer, selected.train)
        seen = (row["input_ids"] for row in train)
    validation_windows = encode(task, tokenizer, validation_rows)
    validation = features(task, validation_windows, validation_rows)
    quicken(model)
    on_gpu = torch.cuda.is_available() and training.device != "cpu"
    if not on_gpu and np.mean([len(row["input_ids"]) for row in train]) >= LONG_WINDOWS:
        model.set_attn_implementation("eager")
    narrow(model, [[pad_id], *seen, *(row["input_ids"] for row in validation)])
    return trainer_type(training)(
        model=model,
        args=arguments_of(training, scratch, world_size, on_gpu=on_gpu, validates=bool(validation)),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=Collator(
            pad_id, {"labels", *inspect.signature(model.forward).parameters}, token_labels=task_cls.target == "tokens"
        ),
        processing_class=wrapper,
        compute_loss_func=loss_function(task_cls.target, training, [row["labels"] for row in train], len(worker_config.labels)),
        compute_metrics=Validate(task, validation_windows, validation_rows),
        callbacks=callbacks,
    )


def trainer_type(training: TrainingSettings) -> type[OrderedTrainer]:
    """The `Trainer` whose checkpoints fit what is trained."""
    if training.tune != "lora":
        return OrderedTrainer
    from training.fit.lora import AdapterTrainer  # peft takes a second to load, and most runs do without

    return AdapterTrainer


def arguments_of(
    training: TrainingSettings, scratch: Path, world_size: int, *, on_gpu: bool, validates: bool
) -> transformers.TrainingArguments:
    """The settings in the `Trainer`'s own terms, for one of ``world_size`` workers."""
    return transformers.TrainingArguments(
        output_dir=str(scratch / "checkpoints"),
        num_train_epochs=training.epochs,
        learning_rate=training.learning_rate,
        per_device_train_batch_size=training.batch_size // (world_size * training.accumulation),
        gradient_accumulation_steps=training.accumulation,
        per_device_eval_batch_size=64,
        warmup_steps=training.warmup_ratio,
        weight_decay=training.weight_decay,
        lr_scheduler_type=training.schedule,
        train_sampling_strategy="group_by_length",
        bf16=training.precision == "bf16" or (training.precision == "auto" and bf16_pays("cuda" if on_gpu else "cpu")),
        use_cpu=not on_gpu,
        ddp_find_unused_parameters=False if world_size > 1 else None,
        ddp_broadcast_buffers=False if world_size > 1 else None,
        eval_strategy="epoch" if validates else "no",
        save_strategy="epoch",
        save_total_limit=1,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_steps=5,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        seed=training.seed,
        data_seed=training.seed,
    )


class Validate:
    """The task's own main metric on the validation rows, through the same `decode` and `score` as everywhere."""

    def __init__(self, task: AnyTask, windows: Windows, rows: Sequence[Any]) -> None:
        self.task, self._windows, self.rows = task, windows, rows

    def __call__(self, prediction: Any) -> dict[str, float]:
        logits = self._logits(prediction)
        outputs = self._decode(logits)
        if self.task.calibrates():  # as its version would be, so that the epochs are compared as they would serve
            self.task.calibration = self.task.calibrate(outputs, self.rows)
            outputs = self._decode(logits)
        return {"f1": float(self.task.score(outputs, self.rows).metrics[self.task.metric])}

    def outputs(self, prediction: Any) -> list[Any]:
        """The outputs for ``rows``, in order, as `Task.calibrate` takes them."""
        return self._decode(self._logits(prediction))

    def _logits(self, prediction: Any) -> dict[str, list[Any]]:
        heads = prediction.predictions if isinstance(prediction.predictions, tuple) else (prediction.predictions,)
        return {name: list(np.asarray(values, dtype=np.float32)) for name, values in zip(self.task.heads, heads, strict=True)}

    def _decode(self, logits: Mapping[str, Sequence[Any]]) -> list[Any]:
        return self.task.decode(self._windows, logits, [self.task.Options()] * len(self.rows))


class Reporter(transformers.TrainerCallback):  # type: ignore[misc]
    """Progress to the registry (rank 0), checkpoints to Ray Train (every rank), early stopping.

    ``facts`` go into each progress report.
    """

    stage: ClassVar[str] = "training"
    names: ClassVar[Mapping[str, str]] = {"loss": "loss", "learning_rate": "learning_rate", "eval_f1": "f1"}
    """What is reported of the `Trainer`'s log, and as what."""
    reports_progress: ClassVar[bool] = True
    """Whether rank 0 writes its progress into the run's record."""

    def __init__(self, worker_config: WorkerConfig, patience: int, **facts: Any) -> None:
        self._worker_config, self._patience, self._facts = worker_config, patience, facts
        self._registry = Registry(worker_config.database)
        self._last = 0.0
        self._began = (0.0, 0)
        self._latest: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remember where this attempt began, for the time left."""
        self._began = (time.monotonic(), state.global_step)
        if state.is_world_process_zero:
            self._report(state, force=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """Note loss, learning rate and F1, and report them."""
        found = {key: float(value) for key, value in (logs or {}).items() if key in self.names}
        self._latest |= {self.names[key]: value for key, value in found.items()}
        if state.is_world_process_zero:
            self._report(state, force=any(key.startswith("eval_") for key in found))

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when the last ``patience`` epochs brought no better F1."""
        scores = [entry["eval_f1"] for entry in state.log_history if "eval_f1" in entry]
        if len(scores) - 1 - int(np.argmax(scores)) >= self._patience:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Hand the epoch's checkpoint to Ray Train. Every rank takes part: the report is a barrier."""
        epoch, f1 = round(state.epoch), self._latest.get("f1")
        metrics = {"f1": f1, "epoch": epoch, "rank": epoch if f1 is None else f1}  # nothing to choose by: the last is the best
        checkpoint = None
        if state.is_world_process_zero:
            directory = checkpoint_directory(args, state)
            write_note(directory, metrics)
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report(metrics, checkpoint=checkpoint)

    def _report(self, state: Any, *, force: bool) -> None:
        now = time.monotonic()
        if not self.reports_progress or (not force and now - self._last < REPORT_SECONDS):
            return
        self._last = now
        began, first_step = self._began
        done = state.global_step - first_step
        left = (now - began) / done * (state.max_steps - state.global_step) if done else None
        progress = {
            **self._facts,
            "epoch": round(state.epoch or 0.0, 2),
            "epochs": state.num_train_epochs,
            "step": state.global_step,
            "steps": state.max_steps,
            "seconds_left": None if left is None else round(left, 1),
            "start": Start(**self._worker_config.start).sentence(),
            **self._latest,
        }
        with suppress(
            RegistryError, Conflict
        ):  # a lost database costs progress lines, not the run; its driver stops an ended one
            self._registry.runs.report(self._worker_config.run_id, self.stage, progress)
