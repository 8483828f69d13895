"""Encodes rows as the features, batches and loaders of a `Trainer`. Knows tasks, but neither models, nor runs, nor Ray."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import torch
import transformers

from baton.engines.torch_writing import write
from baton.generation import Generation
from baton.tasks import AnyTask
from baton.tasks.base import IGNORED
from baton.tasks.windows import Windows

CHUNK = 1000
"""Number of rows that are tokenised at once."""


def encode(task: AnyTask, tokenizer: Any, rows: Sequence[Any]) -> Windows:
    """Encode rows exactly as evaluation and serving do."""
    return task.encode(tokenizer, [task.input_of(row) for row in rows], [task.Options()] * len(rows))


def training_features(task: AnyTask, tokenizer: Any, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the `features` of many rows, encoded in chunks.

    The tokenizer's record of a window is a hundred times as large as the features that are kept of it.
    """
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    return [feature for chunk in chunks for feature in features(task, encode(task, tokenizer, chunk), chunk)]


def features(task: AnyTask, windows: Windows, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return one dict for each window: ``input_ids``, ``token_type_ids``, ``labels``."""
    return [
        {"input_ids": ids, "token_type_ids": types, "labels": target}
        for ids, types, target in zip(windows.ids, windows.type_ids, task.targets(rows, windows), strict=True)
    ]


def features_by_row(task: AnyTask, tokenizer: Any, rows: Sequence[Any]) -> list[list[dict[str, Any]]]:
    """Return for each row the features of its windows."""
    windows = encode(task, tokenizer, rows)
    flat = features(task, windows, rows)
    return [flat[indices.start : indices.stop] for indices in windows.ranges_by_input()]


class OrderedTrainer(transformers.Trainer):  # type: ignore[misc]
    """A `Trainer` that evaluates rows in their given order, and answers that are written by writing them.

    With ``group_by_length``, the original class also reorders the evaluation rows, so that `compute_metrics` cannot tell which
    prediction belongs to which row.
    """

    generation: Generation | None = None
    """How the model writes; None if it does not."""
    listener: Callable[..., None] | None = None
    """Called with the inputs of each batch before its loss, and with ``training``: whether it trains the model."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **named: Any) -> Any:
        """Return the loss of a batch, whose inputs ``listener`` has seen."""
        if self.listener is not None:
            self.listener(inputs, training=model.training)
        return super().compute_loss(model, inputs, *args, **named)

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """Return loss, predictions and labels of a batch. Of a model that writes the predictions are the tokens it wrote."""
        if self.generation is None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        batch = self._prepare_inputs(inputs)
        plain = self.accelerator.unwrap_model(model)
        return None, write(plain, batch["input_ids"], batch["attention_mask"], self.generation), batch["labels"]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return batches in order, distributed over the workers by accelerate."""
        loader = torch.utils.data.DataLoader(
            self.eval_dataset if eval_dataset is None else eval_dataset,
            batch_size=self.args.eval_batch_size,
            collate_fn=self.data_collator,
        )
        return self.accelerator.prepare(loader)


class Collator:
    """Pads a batch to its longest window, and leaves out inputs that the model does not accept (DistilBERT: token types).

    Args:
        pad_id: fills up windows.
        accepted: names of the inputs that the model accepts.
        token_labels: whether the labels of a window are a list, which may be as long as the window or have a length of its own.
        decoder_ids: returns, for models that write, what their decoder reads where ``labels`` [windows, tokens] are to be
            written: the tokens before each (teacher forcing).
    """

    def __init__(
        self,
        pad_id: int,
        accepted: Container[str],
        *,
        token_labels: bool = False,
        decoder_ids: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self._pad_id, self._accepted, self._token_labels = pad_id, accepted, token_labels
        self._decoder_ids = decoder_ids

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        def padded(values: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
            width = max(map(len, values))
            return torch.tensor([[*value, *[fill] * (width - len(value))] for value in values])

        labels = [row["labels"] for row in batch]
        tensors = {
            "input_ids": padded([row["input_ids"] for row in batch], self._pad_id),
            "token_type_ids": padded([row["token_type_ids"] for row in batch], 0),
            "attention_mask": padded([[1] * len(row["input_ids"]) for row in batch], 0),
            "labels": padded(labels, IGNORED) if self._token_labels else torch.tensor(labels),
        }
        if self._decoder_ids is not None:
            tensors["decoder_input_ids"] = self._decoder_ids(tensors["labels"])
        return {name: tensor for name, tensor in tensors.items() if name in self._accepted}
