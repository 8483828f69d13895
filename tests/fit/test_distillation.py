"""The loss of a training that imitates a teacher."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from baton.config.training_settings import DistilSettings
from baton.tasks import AnyTask, task_type
from baton.tasks.base import IGNORED
from tests.support.world import LABELS, World, last_checkpoint
from training.fit import distillation
from training.fit.distillation import Distillation
from training.fit.losses import label_loss, multi_label_loss, span_loss
from training.fit.start import Start
from training.fit.worker import build_trainer

pytestmark = pytest.mark.usefixtures("one_thread")
INPUTS = {"input_ids": torch.zeros(2, 3, dtype=torch.long)}
T, W = 3.0, 0.75


class Says(nn.Module):
    """A teacher that always says the same."""

    def __init__(self, **logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.logits


def loss_of(
    hard: Any, task: AnyTask, heard: dict[str, torch.Tensor], labels: tuple[str, ...], training: bool = True
) -> Distillation:
    loss = Distillation(hard, Says(**heard), task, labels, DistilSettings(temperature=T, weight=W))
    loss.listen(INPUTS | {"labels": torch.zeros(2)}, training=training)
    return loss


def divergence(theirs: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each row's softened scores, by torch's own function."""
    return functional.cross_entropy(ours / T, (theirs / T).softmax(-1), reduction="none")


def test_labels_are_matched_by_name_and_unknown_ones_learned_from_the_rows():
    task = task_type("classification")(["a", "b", "c"], 8)
    theirs, ours, labels = torch.tensor([[2.0, 0.0], [1.0, -1.0]]), torch.randn(2, 3), torch.tensor([0, 2])
    loss = loss_of(label_loss, task, {"logits": theirs}, ("b", "a"))
    knows = torch.tensor([[0.0, 2.0, -torch.inf]])  # the teacher's scores of a and b; it has none for c
    expected = torch.stack([divergence(knows, ours[:1])[0], functional.cross_entropy(ours[1] / T, labels[1])]).mean()
    hard = functional.cross_entropy(ours, labels)
    assert float(loss({"logits": ours}, labels)) == pytest.approx(float((1 - W) * hard + W * T**2 * expected), rel=1e-5)
    # a batch of 8 over all workers
    assert float(loss({"logits": ours}, labels, 8)) == pytest.approx(float(loss({"logits": ours}, labels)) * 2 / 8, rel=1e-5)


def test_tokens_that_have_no_label_do_not_count():
    task = task_type("ner")(["O", "B-X"], 8)
    theirs, ours = torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    labels = torch.tensor([[IGNORED, 0, 1], [IGNORED, IGNORED, 1]])
    loss = loss_of(label_loss, task, {"logits": theirs}, ("O", "B-X"))
    counted = labels != IGNORED
    soft = divergence(theirs[counted], ours[counted]).mean()
    hard = functional.cross_entropy(ours[counted], labels[counted])
    assert float(loss({"logits": ours}, labels)) == pytest.approx(float((1 - W) * hard + W * T**2 * soft), rel=1e-5)


def test_each_of_many_labels_is_imitated():
    task = task_type("multi_label")(["a", "b"], 8)
    theirs, ours, labels = torch.randn(2, 1), torch.randn(2, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = loss_of(multi_label_loss, task, {"logits": theirs}, ("b",))
    targets = torch.stack([labels[:, 0], (theirs[:, 0] / T).sigmoid()], dim=1)
    soft = functional.binary_cross_entropy_with_logits(ours / T, targets)
    hard = functional.binary_cross_entropy_with_logits(ours, labels)
    assert float(loss({"logits": ours}, labels)) == pytest.approx(float((1 - W) * hard + W * T**2 * soft), rel=1e-5)


def test_both_ends_of_an_answer_are_imitated():
    task = task_type("qa")([], 8)
    theirs = {"start_logits": torch.randn(2, 3), "end_logits": torch.randn(2, 3)}
    ours, labels = {head: torch.randn(2, 3) for head in theirs}, torch.tensor([[0, 1], [1, 2]])
    loss = loss_of(span_loss, task, theirs, ())
    soft = torch.cat([divergence(theirs[head], ours[head]) for head in theirs]).mean()
    hard = span_loss(ours, labels)
    assert float(loss(ours, labels)) == pytest.approx(float((1 - W) * hard + W * T**2 * soft), rel=1e-5)


def test_in_an_evaluation_the_loss_is_that_of_the_labels():
    task = task_type("classification")(["a", "b"], 8)
    ours, labels = torch.randn(2, 2), torch.tensor([0, 1])
    loss = loss_of(label_loss, task, {"logits": torch.randn(2, 2)}, ("a", "b"), training=False)
    assert torch.equal(loss({"logits": ours}, labels), label_loss({"logits": ours}, labels))


def test_labels_stand_in_the_order_of_their_numbers():
    assert distillation.labels_of({"id2label": {"10": "c", "2": "b", "0": "a"}}) == ["a", "b", "c"]
    assert distillation.labels_of({}) == []


def test_a_training_learns_what_its_teacher_knows_and_its_rows_do_not(tiny_base, tmp_path):
    """All labels of the rows are wrong. With the teacher's scores alone as a target the model is as good as the teacher."""
    world = World(tiny_base, tmp_path, rows=400)
    (tmp_path / "a").mkdir()
    good = world.trainer(tmp_path / "a", epochs=8)
    good.train()
    knows = world.f1(last_checkpoint(good), world.dataset.holdout)
    wrong = [{"text": row.text, "label": LABELS[(LABELS.index(row.label) + 1) % 4]} for row in world.dataset.train]
    right = [{"text": row.text, "label": row.label} for row in world.dataset.holdout]
    world.freeze(wrong, right)
    teacher = Path(world.storage.runs_path) / "r" / "teacher"
    world.storage.write_run_files("r/teacher", last_checkpoint(good))
    assert (teacher / "model.safetensors").is_file()
    (tmp_path / "b").mkdir()
    config = replace(world.worker_config, start=asdict(Start(teacher="r/teacher")))
    student = build_trainer(config, world.settings(distil={"weight": 1.0}, validation=0.0, epochs=8), tmp_path / "b", 1)
    student.train()
    assert knows >= 0.9
    assert world.f1(last_checkpoint(student), world.dataset.holdout) >= knows - 0.05
