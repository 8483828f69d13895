"""The training of a worker: it learns, it changes only the allowed weights, and the gradient does not depend on the number of
workers or accumulation steps.

The `Trainer` of Ray Train's workers is built and run in this process, without Ray.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from baton.config.base_models import check_length
from baton.config.model_settings import ModelSettings
from baton.config.training_settings import TrainingSettings
from baton.engines.torch_engine import load_model
from baton.errors import ConfigError, NotFinite
from baton.predict.predictor import Predictor
from baton.store.records import RunState
from tests.support.world import LABELS, QUICK, StopAfter, Weights, World, last_checkpoint, same, settings_of, weights_of
from training import pipeline
from training.data.batches import Collator
from training.fit.priority import AUTOGROUP
from training.fit.request import Trained, WorkerConfig
from training.fit.tuning import tune
from training.fit.worker import Reporter, build_trainer
from training.judge.evaluate import evaluate

BATCH = 16
ACCEPTED = ("input_ids", "token_type_ids", "attention_mask", "labels")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def large(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tiny_base, tmp_path_factory.mktemp("large"), rows=500)


@pytest.fixture(scope="module")
def small(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tiny_base, tmp_path_factory.mktemp("small"), rows=80)


@pytest.fixture(scope="module")
def trained(large: World, tmp_path_factory: pytest.TempPathFactory) -> transformers.Trainer:
    """A trainer that has trained to the end."""
    trainer = large.trainer(tmp_path_factory.mktemp("trained"))
    trainer.train()
    return trainer


def test_the_loss_is_the_one_that_the_settings_describe_over_the_rows_that_are_trained_on(tiny_base, tmp_path):
    (tmp_path / "world").mkdir()
    world = World(tiny_base, tmp_path / "world", rows=80)
    logits, labels = torch.randn(12, len(LABELS), generator=torch.Generator().manual_seed(0)), torch.arange(12) % len(LABELS)
    outputs = {"logits": logits}

    def loss(name: str, **settings: Any) -> float:
        (tmp_path / name).mkdir()
        trainer = world.trainer(tmp_path / name, **settings)
        counts = np.bincount([row["labels"] for row in trainer.train_dataset], minlength=len(LABELS))
        weights.append(len(trainer.train_dataset) / (len(LABELS) * torch.tensor(counts, dtype=torch.float32)))
        return float(trainer.compute_loss_func(outputs, labels))

    weights: list[torch.Tensor] = []
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    certain = torch.exp(-plain)
    assert loss("plain") == pytest.approx(float(plain.mean()), rel=1e-5)
    assert loss("balanced", class_weights="balanced") == pytest.approx(float((weights[-1][labels] * plain).mean()), rel=1e-5)
    assert loss("focal", loss="focal", focal_gamma=1.5) == pytest.approx(float(((1 - certain) ** 1.5 * plain).mean()), rel=1e-5)
    smoothed = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
    assert loss("smoothed", label_smoothing=0.3) == pytest.approx(float(smoothed), rel=1e-5)


# --- learning ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("two_workers")  # they take long to start: meanwhile the other tests run
def test_it_learns_what_the_rows_teach(large, trained):
    assert large.f1(last_checkpoint(trained), large.dataset.holdout) > 0.9


def test_it_reports_a_falling_loss_and_the_validation_f1_of_each_epoch(trained):
    losses = [entry["loss"] for entry in trained.state.log_history if "loss" in entry]
    scores = [entry["eval_f1"] for entry in trained.state.log_history if "eval_f1" in entry]
    assert losses[0] == pytest.approx(np.log(len(LABELS)), rel=0.5)
    assert np.mean(losses[-5:]) < losses[0] / 3
    assert len(scores) == QUICK["epochs"]
    assert scores[-1] > 0.9


def test_the_validation_f1_is_that_of_an_independent_evaluation_of_the_same_checkpoint(tiny_base, tmp_path):
    (tmp_path / "noisy").mkdir()
    world = World(tiny_base, tmp_path / "noisy", rows=300, noise=0.3)  # so that it is far from 0 and from 1
    trainer = world.trainer(tmp_path, epochs=3)
    trainer.train()
    reported = [entry["eval_f1"] for entry in trainer.state.log_history if "eval_f1" in entry][-1]
    assert reported == pytest.approx(world.f1(last_checkpoint(trainer), world.validation_rows()), abs=1e-9)
    assert 0.2 < reported < 0.95


def test_no_row_of_the_holdout_and_no_row_of_the_validation_side_is_trained_on(large, trained):
    tokens = [{tuple(row["input_ids"]) for row in side} for side in (trained.train_dataset, trained.eval_dataset)]
    assert len(trained.train_dataset) + len(trained.eval_dataset) == large.dataset.version.train_rows
    assert tokens[0].isdisjoint(tokens[1])
    tokenizer = trained.processing_class
    held = {tuple(tokenizer(row.text, truncation=True, max_length=128)["input_ids"]) for row in large.dataset.holdout}
    assert (tokens[0] | tokens[1]).isdisjoint(held)


def test_without_validation_every_row_is_trained_on_and_the_last_epoch_is_the_best(small, tmp_path):
    trainer = small.trainer(tmp_path, validation=0, epochs=2)
    assert len(trainer.train_dataset) == len(small.dataset.train)
    assert len(trainer.eval_dataset) == 0
    trainer.train()
    assert not [entry for entry in trainer.state.log_history if "eval_f1" in entry]


def test_a_training_process_yields_to_serving_and_never_takes_priority_back():
    script = (
        "import os\n"
        "from baton.config.training_settings import TrainingSettings\n"
        "from training.fit.priority import limit_process\n"
        "for niceness in (7, 3):\n"
        "    limit_process(1, TrainingSettings(niceness=niceness))\n"
        "    print(os.getpriority(os.PRIO_PROCESS, 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert done.stdout.split() == [str(max(7, before))] * 2


# The file is empty where control groups weigh processes instead, and cannot be written where /proc is read-only.
@pytest.mark.skipif(
    not (AUTOGROUP.exists() and AUTOGROUP.read_text() and os.access(AUTOGROUP, os.W_OK)),
    reason="the kernel does not weigh sessions here",
)
@pytest.mark.parametrize("own_session", [True, False])
def test_the_session_of_a_job_yields_as_well_and_nobody_elses(own_session):
    script = (
        "from training.fit.priority import AUTOGROUP, yield_to_serving\n"
        "from baton.config.training_settings import TrainingSettings\n"
        "yield_to_serving(TrainingSettings(niceness=7)); print(AUTOGROUP.read_text())"
    )
    own, before = os.getpriority(os.PRIO_PROCESS, 0), AUTOGROUP.read_text().split()[-1]
    command = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, script]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        start_new_session=own_session,
        process_group=None if own_session else 0,
    )
    assert done.stdout.split()[-1] == (str(max(7, own)) if own_session else before)


def test_a_checkpoint_is_a_hugging_face_directory_without_surprises(trained):
    directory = last_checkpoint(trained)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory)
    assert [model.config.id2label[index] for index in range(4)] == list(LABELS)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in directory.iterdir()}


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (2, 1), (4, 1), (1, 4), (2, 2)])
def test_the_workers_share_the_batch_and_take_their_share_in_parts(small, tmp_path, world_size, accumulation):
    settings = small.settings(batch_size=8, workers=world_size, accumulation=accumulation)
    trainer = build_trainer(small.worker_config, settings, tmp_path, world_size)
    assert trainer.args.per_device_train_batch_size == 8 // world_size // accumulation
    assert trainer.args.gradient_accumulation_steps == accumulation


# --- what may change -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "trained_parts"),
    [
        ({"tune": "head"}, ("bert.pooler.", "classifier.")),
        ({"tune": "last_n", "last_n": 1}, ("bert.encoder.layer.1.", "bert.pooler.", "classifier.")),
        ({"tune": "last_n", "last_n": 2}, ("bert.encoder.layer.", "bert.pooler.", "classifier.")),
        ({"tune": "last_n", "last_n": 9}, ("bert.encoder.layer.", "bert.pooler.", "classifier.")),
        ({"tune": "full"}, ("bert.", "classifier.")),
    ],
)
def test_training_changes_every_weight_that_it_may_and_no_bit_of_the_others(small, tmp_path, training, trained_parts):
    trainer = small.trainer(tmp_path, epochs=2, **training)
    before = weights_of(trainer)
    trainer.train()
    after = weights_of(trainer)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(trained_parts)}


def test_the_base_itself_is_what_a_frozen_encoder_keeps(small, tiny_base, tmp_path):
    base = load_file(tiny_base / "model.safetensors")
    kept = weights_of(small.trainer(tmp_path, tune="head"))
    for name in base:
        assert np.array_equal(base[name], kept[f"bert.{name}"].numpy()), name


def test_an_encoder_of_another_architecture_is_frozen_alike():
    config = transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=32, num_labels=3)
    model = transformers.DistilBertForSequenceClassification(config)
    tune(model, TrainingSettings(tune="last_n", last_n=1))
    free = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"classifier", "pre_classifier", "distilbert.transformer.layer.2.ffn.lin1"} <= free
    assert not any(name.startswith(("distilbert.embeddings", "distilbert.transformer.layer.0")) for name in free)
    assert not any(name.startswith("distilbert.transformer.layer.1") for name in free)


# --- the same again ------------------------------------------------------------------------------------------------------


def test_two_trainings_with_one_seed_end_with_the_same_weights_and_another_seed_with_others(small, tmp_path):
    results = []
    for number, seed in enumerate((0, 0, 1)):
        torch.rand(number + 1)  # whatever was drawn before does not matter
        (tmp_path / str(number)).mkdir()
        trainer = small.trainer(tmp_path / str(number), epochs=2, seed=seed)
        trainer.train()
        results.append(weights_of(trainer))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_a_training_resumed_from_its_last_checkpoint_ends_as_if_it_had_never_stopped(small, tmp_path):
    for name in ("whole", "first", "second"):
        (tmp_path / name).mkdir()
    whole = small.trainer(tmp_path / "whole", epochs=3)
    whole.train()
    first = small.trainer(tmp_path / "first", epochs=3)
    first.add_callback(StopAfter(1))
    first.train()
    steps = whole.state.max_steps // 3
    assert first.state.global_step == steps
    second = small.trainer(tmp_path / "second", epochs=3)
    second.train(resume_from_checkpoint=str(last_checkpoint(first)))
    assert (second.state.global_step, second.state.max_steps) == (3 * steps, 3 * steps)
    scores = [[entry["eval_f1"] for entry in it.state.log_history if "eval_f1" in entry] for it in (whole, second)]
    assert scores[0] == scores[1]
    assert same(weights_of(whole), weights_of(second))


# --- one batch, however it is spread -------------------------------------------------------------------------------------


def one_step(
    worker_config: WorkerConfig, settings: Mapping[str, Any], scratch: Path, *, world_size: int = 1, **changes: Any
) -> tuple[float, Weights, Weights]:
    """Loss, gradients and weights after one step of plain gradient descent on the first `BATCH` rows.

    The `Trainer` is the worker's, but for the optimiser (Adam would hide a wrong factor) and the number of steps.
    """
    training = {**settings["training"], "batch_size": BATCH, **changes}
    built = build_trainer(worker_config, ModelSettings.model_validate({**settings, "training": training}), scratch, world_size)
    ends = {
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    ours = {name: value for name, value in built.args.to_dict().items() if name in SET_BY_US}
    optimiser = torch.optim.SGD([it for it in built.model.parameters() if it.requires_grad], lr=0.1)
    gradients: dict[str, torch.Tensor] = {}

    class Peek(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    gradients[name.removeprefix("module.")] = parameter.grad.clone()

    trainer = type(built)(
        model=built.model,
        args=TrainingArguments(**{**ours, **ends}),
        train_dataset=built.train_dataset[:BATCH],
        data_collator=built.data_collator,
        compute_loss_func=built.compute_loss_func,
        optimizers=(optimiser, torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)),
        callbacks=[Peek()],
    )
    trainer.train()
    [loss] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return loss, gradients, weights_of(trainer)


STEPS: dict[str, dict[str, Any]] = {
    "full": {},
    "in parts": {"accumulation": 4},
    "lora": {"tune": "lora", "accumulation": 2},
}
"""What two workers train together, each by what it changes of the settings."""

SET_BY_US = (
    "output_dir",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "weight_decay",
    "train_sampling_strategy",
    "bf16",
    "use_cpu",
    "ddp_find_unused_parameters",
    "logging_nan_inf_filter",
    "disable_tqdm",
    "report_to",
    "seed",
    "data_seed",
)


@pytest.fixture(scope="module")
def still_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base without dropout, so that the same rows give the same loss."""
    directory = Path(shutil.copytree(tiny_base, tmp_path_factory.mktemp("still") / "base"))
    config = json.loads((directory / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def plan(small: World, still_base: Path) -> dict[str, Any]:
    """WorkerConfig and settings of `one_step`, as plain values."""
    settings = settings_of(still_base, small.directory / "train.jsonl", small.directory / "holdout.jsonl")
    return {"worker_config": vars(small.worker_config), "settings": settings.model_dump(mode="json")}


@pytest.fixture(scope="module")
def in_one_batch(plan: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[float, Weights, Weights]:
    return one_step(WorkerConfig(**plan["worker_config"]), plan["settings"], tmp_path_factory.mktemp("one-batch"))


@pytest.fixture(scope="module")
def two_workers(plan: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen, Path]]:
    """Two workers on the batch, each with half of it; one step for each of `STEPS`."""
    directory = tmp_path_factory.mktemp("two-workers")
    (directory / "plan.json").write_text(json.dumps({**plan, "steps": STEPS}))
    command = [sys.executable, "-m", "tests.support.two_workers", str(directory / "plan.json"), str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    yield process, directory
    process.kill()
    process.communicate()


def assert_same_step(first: tuple[float, Weights, Weights], second: tuple[float, Weights, Weights]) -> None:
    assert second[0] == pytest.approx(first[0], abs=1e-4)  # `Trainer` logs rounded losses
    for one, other in zip(first[1:], second[1:], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(other[name], one[name], atol=1e-5, rtol=1e-4, msg=lambda text, at=name: f"{at}: {text}")


@pytest.mark.parametrize("accumulation", [2, 4])
def test_a_batch_accumulated_in_parts_gives_the_step_of_the_whole_batch(plan, in_one_batch, tmp_path, accumulation):
    assert_same_step(
        in_one_batch, one_step(WorkerConfig(**plan["worker_config"]), plan["settings"], tmp_path, accumulation=accumulation)
    )
    assert max(gradient.abs().max() for gradient in in_one_batch[1].values()) > 0.01


def test_the_loss_of_that_batch_is_the_mean_cross_entropy_of_its_rows(plan, in_one_batch, tmp_path, still_base):
    built = build_trainer(WorkerConfig(**plan["worker_config"]), ModelSettings.model_validate(plan["settings"]), tmp_path, 1)
    batch = Collator(0, ACCEPTED)(built.train_dataset[:BATCH])
    logits = built.model.eval()(**batch).logits
    assert in_one_batch[0] == pytest.approx(torch.nn.functional.cross_entropy(logits, batch["labels"]).item(), abs=1e-4)


@pytest.mark.parametrize("step", STEPS)
def test_two_workers_with_half_the_batch_each_take_the_step_of_the_whole_batch(plan, two_workers, tmp_path, step):
    process, directory = two_workers
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    alone = {name: value for name, value in STEPS[step].items() if name != "accumulation"}
    whole = one_step(WorkerConfig(**plan["worker_config"]), plan["settings"], tmp_path, **alone)
    results = [torch.load(directory / f"{step}-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for result in results:
        assert_same_step(whole, (result["loss"], result["gradients"], result["weights"]))
    assert same(results[0]["weights"], results[1]["weights"])


# --- batches -------------------------------------------------------------------------------------------------------------


def test_a_batch_is_padded_to_its_longest_row():
    rows = [
        {"input_ids": [2, 9, 3], "token_type_ids": [0, 0, 0], "labels": 1},
        {"input_ids": [2, 8, 7, 6, 3], "token_type_ids": [0, 0, 1, 1, 1], "labels": 0},
    ]
    batch = Collator(5, ACCEPTED)(rows)
    assert batch["input_ids"].tolist() == [[2, 9, 3, 5, 5], [2, 8, 7, 6, 3]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [1, 0]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_evaluation_keeps_the_rows_in_order_and_training_mixes_them(trained):
    evaluated = [ids for batch in trained.get_eval_dataloader() for ids in without_padding(batch)]
    assert evaluated == [row["input_ids"] for row in trained.eval_dataset]
    drawn = [ids for batch in trained.get_train_dataloader() for ids in without_padding(batch)]
    rows = [row["input_ids"] for row in trained.train_dataset]
    assert sorted(drawn) == sorted(rows)
    assert drawn != rows


def without_padding(batch: Mapping[str, torch.Tensor]) -> list[list[int]]:
    return [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


# --- progress and early stopping -----------------------------------------------------------------------------------------


def state_with(scores: list[float]) -> TrainerState:
    state = TrainerState(is_world_process_zero=True, global_step=10, max_steps=40, epoch=1.0, num_train_epochs=4)
    state.log_history = [entry for score in scores for entry in ({"loss": 0.5}, {"eval_f1": score})]
    return state


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [
        ([0.5], 1, False),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.5], 1, True),
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.3], 2, True),
        ([0.5, 0.4, 0.6], 2, False),
        ([0.5, 0.6, 0.6, 0.6], 2, True),
        ([0.9, 0.1, 0.2, 0.3], 3, True),
        ([0.1, 0.2, 0.3, 0.4], 1, False),
    ],
)
def test_training_stops_once_patience_epochs_brought_no_better_f1(small, scores, patience, stops):
    control = TrainerControl()
    Reporter(small.worker_config, patience).on_evaluate(None, state_with(scores), control)
    assert control.should_training_stop is stops


@pytest.fixture
def running(small: World) -> Iterator[WorkerConfig]:
    """A job whose run is under way."""
    run = small.registry.runs.create("m", {})
    small.registry.runs.start(run.id)
    yield WorkerConfig(**{**vars(small.worker_config), "run_id": run.id})
    if not small.registry.runs.get(run.id).state.final:
        small.registry.runs.finish(run.id, RunState.CANCELLED)


def test_progress_reaches_the_registry_with_step_loss_f1_and_the_time_left(small, running):
    reporter, state = Reporter(running, 2), state_with([])
    state.global_step = 0
    reporter.on_train_begin(None, state, None)
    state.global_step = 10
    reporter.on_log(None, state, None, {"loss": 0.25, "learning_rate": 1e-4, "grad_norm": 3.0})
    reporter.on_log(None, state, None, {"eval_f1": 0.75, "eval_loss": 0.5})
    run = small.registry.runs.get(running.run_id)
    assert run.stage == "training"
    left = run.progress.pop("seconds_left")
    assert left >= 0
    assert run.progress == {
        "epoch": 1.0,
        "epochs": 4,
        "step": 10,
        "steps": 40,
        "start": "from the base model: training.start_from is base",
        "loss": 0.25,
        "learning_rate": 1e-4,
        "f1": 0.75,
    }


def test_only_the_first_worker_reports(small, running):
    state = state_with([])
    state.is_world_process_zero = False
    reporter = Reporter(running, 2)
    reporter.on_train_begin(None, state, None)
    reporter.on_log(None, state, None, {"eval_f1": 0.75})
    assert small.registry.runs.events(running.run_id) == []


def test_a_run_that_is_over_and_a_lost_database_do_not_disturb_the_training(small, running, tmp_path):
    small.registry.runs.finish(running.run_id, RunState.CANCELLED)
    Reporter(running, 2).on_train_begin(None, state_with([]), None)
    lost = WorkerConfig(**{**vars(running), "database": f"sqlite:///{tmp_path}/empty.db"})
    Reporter(lost, 2).on_train_begin(None, state_with([]), None)
    assert small.registry.runs.get(running.run_id).progress == {}


# --- around the training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "fits"), [(8, True), (128, True), (129, False), (512, False)])
def test_a_max_length_beyond_the_models_positions_is_refused(tiny_base, length, fits):
    check = partial(check_length, tiny_base, "tiny", length)
    if fits:
        check()
        return
    with pytest.raises(ConfigError, match=rf"training.max_length: {length} is not allowed; .* takes at most 128 tokens"):
        check()


def test_a_model_that_diverged_is_refused_and_nothing_is_published(large, trained, tmp_path):
    checkpoint = Path(shutil.copytree(last_checkpoint(trained), tmp_path / "diverged"))
    weights = load_file(checkpoint / "model.safetensors")
    weights["classifier.weight"][:] = np.nan
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotFinite, match=r"the model's logits are not numbers for some inputs; did its training diverge\?"):
        pipeline.publish(large.context(), "diverged", large.dataset, Trained(directory=checkpoint, f1=0.0, epoch=1))
    assert large.registry.versions.list("m") == []


def test_what_is_published_is_the_checkpoint_with_the_scores_that_it_gets_when_fetched_again(large, trained):
    best = Trained(directory=last_checkpoint(trained), f1=0.97, epoch=4)
    version, evaluation = pipeline.publish(large.context(), "by-hand", large.dataset, best)
    directory, manifest = large.storage.fetch(version, Path("unused: the storage is local"))
    assert sorted(path.name for path in directory.iterdir()) == sorted([*manifest.files, "baton.json"])
    assert "optimizer.pt" not in manifest.files
    predictor = Predictor.load(directory, manifest, large.settings().serving)
    predictor.check(manifest.probes)
    score = evaluate(predictor, large.dataset.holdout, lambda done, total: None).score
    assert score.metrics["f1"] == pytest.approx(evaluation.metrics["f1"], abs=1e-9)
    assert np.array_equal(score.statistics, evaluation.statistics)
    assert evaluation.holdout_hash == large.dataset.version.holdout_hash
    assert (version.lineage["best_epoch"], version.lineage["dataset"]["hash"]) == (4, large.dataset.version.hash)


def test_a_version_is_served_with_the_temperature_that_its_holdout_gave(large, trained):
    best = Trained(directory=last_checkpoint(trained), f1=0.97, epoch=4)
    version, evaluation = pipeline.publish(large.context(), "calibrated", large.dataset, best)
    directory, manifest = large.storage.fetch(version, Path("unused: the storage is local"))
    found = evaluation.metrics["confidence"]
    assert manifest.temperature == found["temperature"] != 1.0
    assert manifest.metrics["confidence"] == version.metrics["confidence"] == found
    serving = large.settings().serving
    served, plain = (
        evaluate(Predictor.load(directory, one, serving), large.dataset.holdout, lambda done, total: None).score
        for one in (manifest, manifest.model_copy(update={"temperature": 1.0}))
    )
    assert served.metrics["confidence"]["curve"] == found["curve"], "a version that is fetched has the scores that were judged"
    assert served.metrics["reference"] == evaluation.metrics["reference"]
    assert plain.metrics["confidence"]["curve"] != found["curve"]
    assert plain.metrics["f1"] == served.metrics["f1"]


def test_a_fresh_head_is_made_for_the_labels_of_the_data(tiny_base):
    model = load_model("AutoModelForSequenceClassification", tiny_base, LABELS)
    assert model.classifier.out_features == len(LABELS)
    assert model.config.label2id == {label: index for index, label in enumerate(LABELS)}


def test_a_model_without_token_types_learns(tiny_base, plan, tmp_path):
    config = transformers.DistilBertConfig(
        vocab_size=json.loads((tiny_base / "config.json").read_text())["vocab_size"],
        dim=32,
        hidden_dim=64,
        n_layers=1,
        n_heads=2,
        max_position_embeddings=128,
    )
    transformers.DistilBertModel(config).save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).write_bytes((tiny_base / name).read_bytes())
    settings = ModelSettings.model_validate({**plan["settings"], "base_model": str(tmp_path / "base")})
    built = build_trainer(WorkerConfig(**plan["worker_config"]), settings, tmp_path, 1)
    assert "token_type_ids" not in built.data_collator(built.train_dataset[:4])
    before = built.model.classifier.weight.detach().clone()
    built.args.max_steps = 2
    built.train()
    assert not torch.equal(before, built.model.classifier.weight)
    assert 0 <= built.evaluate()["eval_f1"] <= 1
