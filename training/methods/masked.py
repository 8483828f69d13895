"""The training that each worker of an adaptation runs: masked-language training of the base model (Devlin et al. 2019, «BERT»,
section 3.1).

A checkpoint holds the files for resuming, and the adapted base model as a plain Hugging Face directory.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import ray
import torch
import transformers
from tokenizers import Tokenizer

from baton.config.base_models import find_base_model
from baton.config.model_settings import ModelSettings
from baton.engines.torch_engine import load_model
from baton.errors import ConfigError
from baton.store.records import RunStage
from baton.tasks.windows import split_into_windows, without_truncation
from training.data.batches import Collator, OrderedTrainer
from training.fit.checkpoints import ADAPTED_BASE, checkpoint_directory, read_note, write_note
from training.fit.dropout import use_fast_dropout
from training.fit.log import set_up_worker
from training.fit.losses import label_loss
from training.fit.priority import limit_process
from training.fit.request import WorkerConfig
from training.fit.weights import save_tokenizer
from training.fit.worker import Reporter, training_arguments
from training.methods.domain_texts import Texts


def train(config: dict[str, Any]) -> None:
    """Adapt the base model to ``config["texts"]``, and report one checkpoint per epoch.

    The configuration is ``WorkerConfig(**config["worker_config"])``. The entry point of Ray Train's workers.
    """
    worker_config = WorkerConfig(**config["worker_config"])
    settings = ModelSettings.model_validate(worker_config.settings)
    set_up_worker(run_id=worker_config.run_id, model=settings.name)
    limit_process(worker_config.threads, settings.training)
    with tempfile.TemporaryDirectory(prefix="baton-adapt-") as scratch:
        texts, world_size = ray.get(config["texts"]), ray.train.get_context().get_world_size()
        trainer = build_masked_trainer(settings, texts, Path(scratch), world_size, use_gpu=worker_config.use_gpu)
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            trainer.add_callback(MaskedReporter(worker_config, trainer, float(trainer.evaluate()["eval_loss"])))
            trainer.train()
        else:
            with checkpoint.as_directory() as directory:
                loss_before = float(read_note(directory)["loss_before"])
                trainer.add_callback(MaskedReporter(worker_config, trainer, loss_before))
                trainer.train(resume_from_checkpoint=directory)


def build_masked_trainer(
    settings: ModelSettings, texts: Texts, scratch: Path, world_size: int, *, use_gpu: bool
) -> transformers.Trainer:
    """Build the `Trainer` of one of ``world_size`` workers.

    The training texts are masked again in each epoch. The texts held back are masked once, so that the losses of all epochs can
    be compared. A base model without a language-model head (a sentence encoder) gets a fresh one that shares the weights of the
    embeddings.

    Raises:
        ConfigError: the base model's tokenizer has no mask token.
    """
    adapt, training = settings.training.adapt, settings.training
    assert adapt is not None
    transformers.set_seed(training.seed)
    base = find_base_model(settings.base_model)
    wrapper = transformers.AutoTokenizer.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    if wrapper.mask_token is None:
        raise ConfigError(
            f"training.adapt: the tokenizer of {settings.base_model} has no mask token; use a base model that was trained with "
            "masks, such as BERT, or leave adapt out"
        )
    tokenizer, pad_id = save_tokenizer(wrapper, base, scratch / "tokenizer")
    model = load_model("AutoModelForMaskedLM", base, ())
    use_fast_dropout(model)
    collate = MaskingCollator(wrapper, adapt.mask, pad_id, inspect.signature(model.forward).parameters.keys())
    changes = {"epochs": adapt.epochs, "learning_rate": adapt.learning_rate, "batch_size": adapt.batch_size, "accumulation": 1}
    return OrderedTrainer(
        model=model,
        args=training_arguments(training.model_copy(update=changes), scratch, world_size, on_gpu=use_gpu, validates=True),
        train_dataset=windows(tokenizer, texts.train, settings.max_length),
        eval_dataset=collate.mask_once(windows(tokenizer, texts.held_back, settings.max_length), training.seed),
        data_collator=collate,
        processing_class=wrapper,
        compute_loss_func=label_loss,
    )


def windows(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> list[dict[str, Any]]:
    """Split the texts into windows that do not overlap, and return the ``input_ids`` of each.

    A window has at most ``max_length`` tokens, special ones included.
    """
    room = max_length - tokenizer.num_special_tokens_to_add(False)
    encodings = without_truncation(tokenizer).encode_batch_fast(list(texts), add_special_tokens=False)
    pieces = [piece for encoding in encodings if len(encoding) for piece in split_into_windows(encoding, room, 0)]
    return [{"input_ids": tokenizer.post_process(piece).ids} for piece in pieces]


class MaskingCollator:
    """Pads a batch of windows, and masks tokens at random unless the windows have labels, which means that they are masked.

    Args:
        wrapper: transformers' tokenizer.
        share: share of the tokens that are masked.
        pad_id: id of the padding token.
        accepted: names of the tensors that the model takes.
    """

    def __init__(self, wrapper: Any, share: float, pad_id: int, accepted: Container[str]) -> None:
        self._wrapper, self._share = wrapper, share
        self._mask = transformers.DataCollatorForLanguageModeling(wrapper, mlm_probability=share)
        self._pad = Collator(pad_id, accepted, token_labels=True)
        self._accepted = accepted

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the tensors of a batch."""
        batch = self._pad(rows) if "labels" in rows[0] else self._mask(rows)
        return {name: tensor for name, tensor in batch.items() if name in self._accepted}

    def mask_once(self, rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
        """Return ``rows`` with masks and labels, so that each epoch predicts the same tokens."""
        mask = transformers.DataCollatorForLanguageModeling(self._wrapper, mlm_probability=self._share, seed=seed)
        batches = (mask([row]) for row in rows)
        return [
            {
                "input_ids": batch["input_ids"][0].tolist(),
                "token_type_ids": [0] * batch["input_ids"].shape[1],
                "labels": batch["labels"][0].tolist(),
            }
            for batch in batches
        ]


class MaskedReporter(Reporter):
    """Reports the loss on the texts held back, and each epoch's adapted base model to Ray Train."""

    stage: ClassVar[RunStage] = RunStage.ADAPTING
    names: ClassVar[Mapping[str, str]] = {"loss": "loss", "learning_rate": "learning_rate", "eval_loss": "held_back_loss"}

    def __init__(self, worker_config: WorkerConfig, trainer: Any, loss_before: float) -> None:
        super().__init__(worker_config, patience=1, held_back_loss=loss_before)
        self._trainer, self._loss_before = trainer, loss_before
        self._base_model = str(worker_config.settings["base_model"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Do nothing: an adaptation does not stop early, and its best epoch is kept."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the epoch's adapted base model to Ray Train. Every rank must call it, because Ray waits for all of them."""
        note = {"loss": self._latest["held_back_loss"], "loss_before": self._loss_before, "epoch": round(state.epoch)}
        checkpoint = None
        if state.is_world_process_zero:
            directory = checkpoint_directory(args, state)
            write_note(directory, note)
            save_base(self._trainer, find_base_model(self._base_model), directory / ADAPTED_BASE)
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report(note, checkpoint=checkpoint)


def save_base(trainer: Any, base: Path, directory: Path) -> None:
    """Save the base model in ``base`` with the trainer's encoder to ``directory``.

    Weights that masked-language training does not use (a pooler) are those of ``base``.
    """
    trained = trainer.accelerator.unwrap_model(trainer.model)
    model = load_model("AutoModel", base, ())
    model.load_state_dict(trained.base_model.state_dict(), strict=False)
    model.save_pretrained(str(directory))
    trainer.processing_class.save_pretrained(str(directory))
