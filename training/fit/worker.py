"""The training that each Ray Train worker runs: a Hugging Face `Trainer` on the task's own features.

`train` is the entry point, `build_trainer` makes the `Trainer`, and `Reporter` reports its progress. After each epoch rank 0
saves a checkpoint and every rank reports it; a restarted worker resumes from the last one.
"""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import ray.train
import transformers

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.config.training_settings import TrainingSettings
from baton.engines.torch_engine import has_fast_bf16
from baton.errors import Conflict, DataError, RegistryError
from baton.store.records import RunStage
from baton.store.registry import Registry
from baton.tasks import AnyTask
from baton.tasks.windows import Windows
from baton.wording import counted
from training.data.augmentation import AugmentedDataset, ReaugmentCallback
from training.data.batches import Collator, OrderedTrainer, encode, features, training_features
from training.data.replay import Selection
from training.fit import weights
from training.fit.checkpoints import checkpoint_directory, write_note
from training.fit.distillation import Distillation
from training.fit.dropout import use_fast_dropout
from training.fit.log import set_up_worker
from training.fit.losses import loss_function
from training.fit.priority import limit_process
from training.fit.request import STEP, WorkerConfig
from training.fit.start import Start, select_rows
from training.fit.tuning import tune
from training.fit.vocabulary import train_seen_embeddings

LONG_WINDOWS = 64
"""Mean tokens of a window from which plain attention code is faster in training on CPUs. With dropout, torch's fused attention
falls back to slow code there: 1.5 times a whole step at 220 tokens; at 17 tokens there is no difference."""

REPORT_SECONDS = 1.0
"""Minimum seconds between two progress reports."""


def train(config: dict[str, Any]) -> None:
    """Fine-tune with the configuration ``WorkerConfig(**config["worker_config"])``, and report one checkpoint per epoch.

    The entry point of Ray Train's workers.
    """
    worker_config = WorkerConfig(**config["worker_config"])
    settings = ModelSettings.model_validate(worker_config.settings)
    set_up_worker(run_id=worker_config.run_id, model=settings.name)
    limit_process(worker_config.threads, settings.training)
    with tempfile.TemporaryDirectory(prefix="baton-train-") as scratch:
        trainer = build_trainer(worker_config, settings, Path(scratch), ray.train.get_context().get_world_size())
        trainer.add_callback(Reporter(worker_config, settings.training.early_stopping))
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            trainer.train()
        else:
            with checkpoint.as_directory() as directory:
                trainer.train(resume_from_checkpoint=directory)


# --- the trainer ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EncodedRows:
    """The rows of a run as the `Trainer` takes them. Each element of ``train`` and ``validation`` is one window's features."""

    train: Sequence[Any]
    """With ``training.augment``, the features change in each epoch."""
    train_token_ids: Iterable[Sequence[int]]
    """The token ids of every window that the training will see, in all epochs. Can be read once."""
    validation: Sequence[Any]
    validation_windows: Windows
    validation_rows: Sequence[Any]
    callbacks: Sequence[transformers.TrainerCallback] = ()
    """Callbacks that ``train`` needs."""


def build_trainer(worker_config: WorkerConfig, settings: ModelSettings, scratch: Path, world_size: int) -> transformers.Trainer:
    """Build the `Trainer` of one of ``world_size`` workers. Everything random in it is seeded.

    Raises:
        DataError: no row can be used for validation.
    """
    training = settings.training
    transformers.set_seed(training.seed)  # for the weights of a fresh head and of adapters
    storage, start = Storage(worker_config.storage, patient=True), Start(**worker_config.start)
    origin = weights.fetch(start, settings, storage, scratch / "parent")
    wrapper = transformers.AutoTokenizer.from_pretrained(str(origin.directory), local_files_only=True, trust_remote_code=False)
    tokenizer, pad_id = weights.save_tokenizer(wrapper, origin.directory, scratch / "tokenizer")
    task = settings.make_task(worker_config.labels)
    tokenizer = task.prepare_tokenizer(tokenizer)
    selection = select_rows(start, settings, storage, worker_config.dataset_uri, worker_config.fold)
    _check_validation(selection, training)
    model = _load_model(origin, task, training)
    if model.config.pad_token_id is None:  # decoders need it to find the last token of each text
        model.config.pad_token_id = pad_id
    rows = _encode_rows(task, tokenizer, selection, training)
    _make_faster(model, rows, pad_id, on_gpu=worker_config.use_gpu)
    trainer = trainer_type(training)(
        model=model,
        args=training_arguments(training, scratch, world_size, on_gpu=worker_config.use_gpu, validates=bool(rows.validation)),
        train_dataset=rows.train,
        eval_dataset=rows.validation,
        data_collator=Collator(
            pad_id,
            {"labels", *inspect.signature(model.forward).parameters},
            token_labels=task.target in ("tokens", "text"),
            decoder_ids=model.prepare_decoder_input_ids_from_labels if task.target == "text" else None,
        ),
        processing_class=wrapper,
        compute_loss_func=loss_function(task.target, training, [row["labels"] for row in rows.train], len(task.labels)),
        compute_metrics=Validate(task, rows.validation_windows, rows.validation_rows),
        callbacks=list(rows.callbacks),
    )
    if task.target == "text":
        trainer.generation = task.generation
    if start.teacher:
        assert training.distil is not None
        teacher = storage.fetch_run(start.teacher, scratch / "teacher")
        trainer.compute_loss_func = Distillation.load(trainer.compute_loss_func, teacher, task, training.distil)
        trainer.listener = trainer.compute_loss_func.listen
    return trainer


def _check_validation(selection: Selection, training: TrainingSettings) -> None:
    """Raise ``DataError`` if the settings require validation rows and there are none."""
    if not selection.validation and training.folds is None and training.validation != 0:
        raise DataError(
            f"none of the {counted(len(selection.train), 'training row')} can be used for validation; at least one label "
            "needs two different texts (question answering: two different contexts)"
        )


def _load_model(origin: weights.Origin, task: AnyTask, training: TrainingSettings) -> Any:
    """Load the model, with gradients for the parameters that ``training.tune`` trains."""
    model = origin.load(type(task), task.labels)
    if task.target == "classes":
        model.config.problem_type = "multi_label_classification"  # transformers' own pipelines then answer as we do
    tune(model, training)
    return model


def _encode_rows(task: AnyTask, tokenizer: Any, selection: Selection, training: TrainingSettings) -> EncodedRows:
    """Encode the training rows, augmented if configured, and the validation rows."""
    # sorted by length: batches of similar lengths need little padding
    validation_rows = sorted(selection.validation, key=lambda row: len(type(task).content(row)))
    train: Sequence[Any]
    train_token_ids: Iterable[Sequence[int]]
    callbacks: list[transformers.TrainerCallback] = []
    if training.augment.active:
        train = AugmentedDataset(task, tokenizer, selection.train, training.augment, training.seed)
        assert training.epochs is not None, "the recipe gives a number"
        train_token_ids = train.token_ids(training.epochs)
        callbacks = [ReaugmentCallback(train)]
    else:
        train = training_features(task, tokenizer, selection.train)
        train_token_ids = (row["input_ids"] for row in train)
    validation_windows = encode(task, tokenizer, validation_rows)
    return EncodedRows(
        train=train,
        train_token_ids=train_token_ids,
        validation=features(task, validation_windows, validation_rows),
        validation_windows=validation_windows,
        validation_rows=validation_rows,
        callbacks=callbacks,
    )


def _make_faster(model: Any, rows: EncodedRows, pad_id: int, *, on_gpu: bool) -> None:
    """Replace parts of ``model`` by faster ones that train the same: dropout, attention and embeddings."""
    use_fast_dropout(model)
    if not on_gpu and np.mean([len(row["input_ids"]) for row in rows.train]) >= LONG_WINDOWS:
        model.set_attn_implementation("eager")
    train_seen_embeddings(model, [[pad_id], *rows.train_token_ids, *(row["input_ids"] for row in rows.validation)])


def trainer_type(training: TrainingSettings) -> type[OrderedTrainer]:
    """Return the `Trainer` class whose checkpoints fit ``training.tune``."""
    if training.tune != "lora":
        return OrderedTrainer
    from training.fit.lora import AdapterTrainer  # peft takes a second to load, and most runs do not need it

    return AdapterTrainer


def training_arguments(
    training: TrainingSettings, scratch: Path, world_size: int, *, on_gpu: bool, validates: bool
) -> transformers.TrainingArguments:
    """Return the settings as the `Trainer`'s arguments, for one of ``world_size`` workers."""
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
        bf16=training.precision == "bf16" or (training.precision == "auto" and has_fast_bf16("cuda" if on_gpu else "cpu")),
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
    """Computes the task's main metric on the validation rows (the `Trainer`'s ``compute_metrics``).

    It uses the same `Task.decode` and `Task.score` as evaluation and serving. ``rows`` are the validation rows, in the order of
    the predictions.
    """

    def __init__(self, task: AnyTask, windows: Windows, rows: Sequence[Any]) -> None:
        self.task, self._windows, self.rows = task, windows, rows

    def __call__(self, prediction: Any) -> dict[str, float]:
        """Return the main metric of a `transformers.EvalPrediction`, under the key ``f1``."""
        logits = self._logits(prediction)
        outputs = self._decode(logits)
        if self.task.calibrates():  # a version is calibrated before it serves, so epochs are compared after calibration
            self.task.calibration = self.task.calibrate(outputs, self.rows)
            outputs = self._decode(logits)
        return {"f1": float(self.task.score(outputs, self.rows).metrics[self.task.metric])}

    def outputs(self, prediction: Any) -> list[Any]:
        """Return the outputs for ``rows``, in order, as `Task.calibrate` takes them."""
        return self._decode(self._logits(prediction))

    def _logits(self, prediction: Any) -> dict[str, list[Any]]:
        heads = prediction.predictions if isinstance(prediction.predictions, tuple) else (prediction.predictions,)
        return {name: list(np.asarray(values, dtype=np.float32)) for name, values in zip(self.task.heads, heads, strict=True)}

    def _decode(self, logits: Mapping[str, Sequence[Any]]) -> list[Any]:
        return self.task.decode(self._windows, logits, [self.task.Options()] * len(self.rows))


# --- callbacks -----------------------------------------------------------------------------------------------------------


class Reporter(transformers.TrainerCallback):  # type: ignore[misc]
    """Reports progress to the registry (rank 0) and checkpoints to Ray Train (every rank), and stops a training early.

    Args:
        worker_config: the configuration of this worker.
        patience: epochs without a better F1 after which the training stops.
        facts: added to each progress report.
    """

    stage: ClassVar[RunStage] = RunStage.TRAINING
    """The stage under which progress is reported."""
    names: ClassVar[Mapping[str, str]] = {"loss": "loss", "learning_rate": "learning_rate", "eval_f1": "f1"}
    """Keys of the `Trainer`'s log that are reported → keys of the progress."""
    reports_progress: ClassVar[bool] = True
    """Whether rank 0 reports progress to the registry."""

    def __init__(self, worker_config: WorkerConfig, patience: int, **facts: Any) -> None:
        self._worker_config, self._patience, self._facts = worker_config, patience, facts
        self._registry = Registry(worker_config.database)
        self._last_report = 0.0
        self._began_at, self._first_step = 0.0, 0
        self._latest: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the time and the step at which this attempt begins: the time left is estimated from them."""
        self._began_at, self._first_step = time.monotonic(), state.global_step
        if state.is_world_process_zero:
            self._report(state, force=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """Note loss, learning rate and F1, and report them."""
        found = {key: float(value) for key, value in (logs or {}).items() if key in self.names}
        self._latest |= {self.names[key]: value for key, value in found.items()}
        if state.is_world_process_zero:
            self._report(state, force=any(key.startswith("eval_") for key in found))

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the training if the last ``patience`` epochs brought no better F1."""
        scores = [entry["eval_f1"] for entry in state.log_history if "eval_f1" in entry]
        if len(scores) - 1 - int(np.argmax(scores)) >= self._patience:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the epoch's checkpoint to Ray Train. Every rank must call it, because Ray waits for all of them."""
        epoch, f1 = round(state.epoch), self._latest.get("f1")
        # without validation there is no score to choose by: the rank makes the last epoch the best
        metrics = {"f1": f1, "epoch": epoch, "rank": epoch if f1 is None else f1}
        checkpoint = None
        if state.is_world_process_zero:
            directory = checkpoint_directory(args, state)
            write_note(directory, metrics)
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report(metrics, checkpoint=checkpoint)

    def _report(self, state: Any, *, force: bool) -> None:
        """Report the progress, unless the last report is too recent (``force`` reports it all the same)."""
        now = time.monotonic()
        if not self.reports_progress or (not force and now - self._last_report < REPORT_SECONDS):
            return
        self._last_report = now
        progress = {
            **self._facts,
            "epoch": round(state.epoch or 0.0, 2),
            "epochs": state.num_train_epochs,
            STEP: state.global_step,
            "steps": state.max_steps,
            "seconds_left": self._seconds_left(state, now),
            "start": Start(**self._worker_config.start).sentence(),
            **self._latest,
        }
        # A lost database costs progress reports, not the run. A run that has ended is stopped by its driver.
        with suppress(RegistryError, Conflict):
            self._registry.runs.report(self._worker_config.run_id, self.stage, progress)

    def _seconds_left(self, state: Any, now: float) -> float | None:
        """Estimate the remaining seconds from the mean time of this attempt's steps; None before its first step."""
        done = state.global_step - self._first_step
        return round((now - self._began_at) / done * (state.max_steps - state.global_step), 1) if done else None


class StopAfterEpochs(transformers.TrainerCallback):  # type: ignore[misc]
    """Stops a training after ``epochs`` epochs. The learning-rate schedule stays that of the configured number of epochs."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the training if the last epoch is over."""
        control.should_training_stop |= round(state.epoch) >= self._epochs
