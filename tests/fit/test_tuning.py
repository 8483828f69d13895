"""Low-rank adapters: only they and the head learn, and what is saved is a plain model that answers like the trained one.

What the other ways to tune may change is tested with the workers (test_worker.py).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from baton.config.training_settings import TrainingSettings
from baton.engines.torch_engine import load_model
from baton.errors import ConfigError
from tests.support.world import LABELS, World, last_checkpoint, same, whole_and_resumed
from training.fit.lora import ADAPTERS, adapted_layers, merged_state
from training.fit.tuning import tune

pytestmark = pytest.mark.usefixtures("one_thread")

LORA = {"tune": "lora", "lora_rank": 4, "lora_alpha": 8.0, "learning_rate": 5e-3}
ADAPTED = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
ADAPTED += ("intermediate.dense", "output.dense")


@pytest.fixture(scope="module")
def world(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tiny_base, tmp_path_factory.mktemp("world"), rows=80)


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> transformers.Trainer:
    trainer = world.trainer(tmp_path_factory.mktemp("trained"), epochs=2, **LORA)
    trainer.train()
    return trainer


def logits(model: Any, rows: Any) -> torch.Tensor:
    with torch.inference_mode():
        batch = {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "token_type_ids")}
        return model.eval()(**batch).logits


# --- what learns ---------------------------------------------------------------------------------------------------------


def test_adapters_leave_the_answers_of_an_untrained_model_as_they_are(tiny_base):
    torch.manual_seed(0)
    plain = load_model("AutoModelForSequenceClassification", tiny_base, LABELS)
    torch.manual_seed(0)
    adapted = load_model("AutoModelForSequenceClassification", tiny_base, LABELS)
    tune(adapted, TrainingSettings(**LORA))
    rows = [{"input_ids": [2, 40, 41, 42, 3], "token_type_ids": [0] * 5}]
    assert torch.equal(logits(plain, rows), logits(adapted, rows))


def test_adapters_have_the_rank_and_the_scale_that_the_settings_say(world, tmp_path):
    trainer = world.trainer(tmp_path, **{**LORA, "lora_rank": 3, "lora_alpha": 12.0, "lora_dropout": 0.25})
    for layer in adapted_layers(trainer.model).values():
        assert layer.lora_A["default"].weight.shape == (3, layer.in_features)
        assert layer.lora_B["default"].weight.shape == (layer.out_features, 3)
        assert (layer.scaling["default"], layer.lora_dropout["default"].p) == (12.0 / 3, 0.25)


def test_the_encoders_linear_layers_have_adapters_and_nothing_else_learns_but_the_head(world, tmp_path):
    model = world.trainer(tmp_path, **LORA).model
    expected = {f"bert.encoder.layer.{number}.{name}" for number in (0, 1) for name in ADAPTED}
    assert set(adapted_layers(model)) == expected
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    head = {f"{name}.{kind}" for name in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")}
    assert learning == head | {f"{name}.lora_{side}.default.weight" for name in expected for side in "AB"}


def test_merged_weights_differ_from_the_base_only_in_the_adapted_layers_and_the_head(trained, tiny_base):
    base, saved = load_file(tiny_base / "model.safetensors"), load_file(last_checkpoint(trained) / "model.safetensors")
    changed = {name for name in base if not np.array_equal(base[name], saved[f"bert.{name}"])}
    layered = {f"encoder.layer.{number}.{name}.weight" for number in (0, 1) for name in ADAPTED}
    assert changed == layered | {"pooler.dense.weight", "pooler.dense.bias"}
    assert set(saved) == {f"bert.{name}" for name in base} | {"classifier.weight", "classifier.bias"}


def test_it_learns_what_the_rows_teach(tiny_base, tmp_path):
    world = World(tiny_base, tmp_path, rows=400)
    trainer = world.trainer(tmp_path, **{**LORA, "epochs": 6, "lora_rank": 8, "lora_alpha": 16.0, "learning_rate": 4e-3})
    trainer.train()
    assert world.f1(last_checkpoint(trainer), world.dataset.holdout) > 0.85


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_in_either_precision_moves_every_adapter(world, tmp_path, precision):
    trainer = world.trainer(tmp_path, **{**LORA, "precision": precision, "epochs": 1})
    before = {name: it.detach().clone() for name, it in trainer.model.named_parameters() if it.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert {it.dtype for it in after.values()} == {torch.float32}


def test_an_encoder_of_another_architecture_has_adapters_in_the_same_places():
    config = transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=3)
    model = transformers.DistilBertForSequenceClassification(config)
    tune(model, TrainingSettings(**LORA))
    names = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2")
    assert set(adapted_layers(model)) == {
        f"distilbert.transformer.layer.{number}.{name}" for number in (0, 1) for name in names
    }


def test_a_base_model_without_linear_layers_is_refused_with_what_is_allowed():
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, num_labels=3)
    model = transformers.GPT2ForSequenceClassification(config)
    with pytest.raises(ConfigError, match=r"lora needs linear layers, and the encoder of GPT2.* allowed .* full, head, last_n"):
        tune(model, TrainingSettings(**LORA))


# --- what is saved -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_opens_as_a_plain_model_that_answers_like_the_trained_one(trained):
    directory = last_checkpoint(trained)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(directory)
    assert not any("lora" in name or "base_layer" in name for name in again.state_dict())
    for row in trained.eval_dataset[:8]:
        torch.testing.assert_close(logits(again, [row]), logits(trained.model, [row]), atol=1e-5, rtol=1e-4)


def test_merging_changes_nothing_of_the_model_that_goes_on_training(trained):
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    merged_state(trained.model)
    assert same(before, trained.model.state_dict())


def test_a_version_made_with_adapters_is_like_any_other(world, trained):
    version = world.publish(last_checkpoint(trained), **LORA)
    _, manifest = world.storage.fetch(version, Path("unused: the storage is local"))
    assert ADAPTERS not in manifest.files
    assert not [name for name in manifest.files if not name.startswith(("config", "model", "tokenizer"))]
    assert version.lineage["training"]["tune"] == "lora"


# --- the same again ------------------------------------------------------------------------------------------------------


def test_a_training_resumed_from_its_last_checkpoint_ends_as_if_it_had_never_stopped(world, tmp_path):
    assert same(*whole_and_resumed(world, tmp_path, **{**LORA, "epochs": 2, "lora_dropout": 0.1}))


def test_a_checkpoint_of_another_model_is_not_resumed_from(world, trained, tmp_path):
    learnt = load_file(last_checkpoint(trained) / ADAPTERS)
    del learnt["classifier.bias"]
    save_file(learnt, tmp_path / ADAPTERS)
    with pytest.raises(ValueError, match=r"does not fit this model; parameters that differ: \['classifier.bias'\]"):
        world.trainer(tmp_path, **LORA)._load_from_checkpoint(str(tmp_path))


# --- the learning rate ---------------------------------------------------------------------------------------------------


class Rates(transformers.TrainerCallback):
    """Notes the learning rate of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_learning_rate_follows_the_schedule_step_by_step(world, tmp_path, schedule):
    peak, epochs, batch = 1e-3, 3, 8
    trainer = world.trainer(
        tmp_path, tune="head", schedule=schedule, learning_rate=peak, epochs=epochs, batch_size=batch, warmup_ratio=0.25
    )
    rates = Rates()
    trainer.add_callback(rates)
    trainer.train()
    steps = epochs * math.ceil(len(trainer.train_dataset) / batch)
    warmup = math.ceil(0.25 * steps)
    assert len(rates.seen) == steps
    for step, rate in enumerate(rates.seen):
        done = (step - warmup) / (steps - warmup)
        falling = 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        assert rate == pytest.approx(peak * (step / warmup if step < warmup else falling), rel=1e-6, abs=1e-12), step


def test_accumulating_a_batch_does_not_change_the_number_of_steps(world, tmp_path):
    steps = []
    for accumulation in (1, 2, 4):
        trainer = world.trainer(tmp_path / str(accumulation), tune="head", epochs=1, batch_size=8, accumulation=accumulation)
        trainer.train()
        steps.append(trainer.state.global_step)
    assert steps == [math.ceil(len(trainer.train_dataset) / 8)] * 3
