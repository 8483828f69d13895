"""The loss of a training that imitates a teacher (``training.distil``).

Source: Hinton et al. 2015, «Distilling the Knowledge in a Neural Network».

The teacher reads the very windows that the model is trained on, so both must have the same tokenizer. Where it cannot know a
label, the row's own label stands in its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from baton.config.base_models import read_config
from baton.config.training_settings import DistilSettings
from baton.engines.torch_engine import load_model
from baton.tasks import AnyTask
from baton.tasks.base import IGNORED
from training.fit.losses import Loss, mean_of


class Distillation:
    """A loss that blends ``hard``, that of the labels, with how far the model's scores are from the teacher's.

    Call `listen` with the inputs of a batch before the loss of its outputs. In an evaluation the loss is that of the labels.

    Args:
        hard: the loss of the labels.
        teacher: a model of the same task.
        task: that of the model in training.
        teacher_labels: the labels of the teacher's outputs; those of both are matched by name.
        settings: temperature and weight.
    """

    def __init__(
        self, hard: Loss, teacher: Any, task: AnyTask, teacher_labels: Sequence[str], settings: DistilSettings
    ) -> None:
        self._hard, self._teacher, self._task = hard, teacher.eval().requires_grad_(False), task
        self._temperature, self._weight = settings.temperature, settings.weight
        self._accepts = inspect.signature(teacher.forward).parameters.keys() - {"labels"}
        theirs = {label: index for index, label in enumerate(teacher_labels)}
        shared = [(index, theirs[label]) for index, label in enumerate(task.labels) if label in theirs]
        self._ours = torch.tensor([ours for ours, _ in shared], dtype=torch.long)
        self._theirs = torch.tensor([theirs for _, theirs in shared], dtype=torch.long)
        self._heard: Mapping[str, torch.Tensor] | None = None

    @classmethod
    def load(cls, hard: Loss, directory: Path, task: AnyTask, settings: DistilSettings) -> Distillation:
        """Load the teacher in ``directory``, whose ``config.json`` names its labels."""
        return cls(hard, load_model(task.auto_model, directory), task, labels_of(read_config(directory)), settings)

    def listen(self, inputs: Mapping[str, torch.Tensor], *, training: bool) -> None:
        """Let the teacher read the inputs of the batch whose loss comes next."""
        self._heard = None
        if training:
            self._teacher.to(inputs["input_ids"].device)
            with torch.no_grad():
                outputs = self._teacher(**{name: tensor for name, tensor in inputs.items() if name in self._accepts})
            self._heard = {head: outputs[head].float() / self._temperature for head in self._task.heads}

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """Return the blended loss, a scalar; see `training.fit.losses.Loss`."""
        hard = self._hard(outputs, labels, num_items_in_batch)
        if self._heard is None:
            return hard
        # the gradient of the soft part is smaller by the square of the temperature
        soft = self._soft(self._heard, outputs, labels, num_items_in_batch) * self._temperature**2
        return (1 - self._weight) * hard + self._weight * soft

    def _soft(self, heard: Mapping[str, torch.Tensor], outputs: Any, labels: torch.Tensor, items: Any) -> torch.Tensor:
        """Return the cross-entropy of the model's scores under the teacher's, both at the temperature."""
        ours = {head: outputs[head].float() / self._temperature for head in heard}
        if self._task.target == "span":
            terms = [functional.cross_entropy(ours[head], heard[head].softmax(-1), reduction="sum") for head in heard]
            return mean_of(torch.stack(terms), labels.numel(), items)
        [(logits, theirs)] = [(ours[head], heard[head]) for head in heard]
        known = self._ours.to(logits.device)
        answers = theirs[..., self._theirs.to(logits.device)]
        if self._task.target == "classes":
            targets = labels.float().index_copy(-1, known, answers.sigmoid())
            terms = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            return mean_of(terms, terms.numel(), items)
        own = functional.one_hot(labels.clamp_min(0), logits.shape[-1]).float()
        targets = torch.zeros_like(own).index_copy(-1, known, answers.softmax(-1))
        taught = torch.isin(labels, known)
        targets = torch.where(taught.unsqueeze(-1), targets, own)
        terms = -(targets * logits.log_softmax(-1)).sum(-1)
        counted = labels != IGNORED
        return mean_of(terms * counted, counted.sum(), items)


def labels_of(config: Mapping[str, Any]) -> list[str]:
    """Return the labels of a model's outputs, in their order, from its ``config.json``."""
    names = config.get("id2label") or {}
    return [str(names[index]) for index in sorted(names, key=int)]
