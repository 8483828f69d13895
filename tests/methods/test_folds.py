"""Cross-validation: every row is validated on once, no text is in two folds, and the last training uses all rows.

The last training takes the median of the folds' best epochs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.tasks import task_type
from baton.tasks.classification import Classification
from baton.text.normal_form import normalise
from tests.support.database import migrated_registry
from tests.support.tiny import keyword_rows
from tests.support.world import LABELS, World
from training.data import datasets, splits
from training.fit.request import WorkerConfig
from training.fit.start import Start, select_rows
from training.fit.worker import build_trainer
from training.methods.choose import choose_method
from training.methods.folds import Fold, cross_validate, train_all, train_fold

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDS = {"folds": 3, "validation": None, "epochs": 3, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def world(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tiny_base, tmp_path_factory.mktemp("world"), rows=60)
    run = world.registry.runs.create("m", {}, started=True)
    world.worker_config = replace(world.worker_config, run_id=run.id, settings=world.settings(**FOLDS).model_dump(mode="json"))
    return world


def example(text: str, label: str) -> Any:
    return Classification.Example(text=text, label=label)


# --- who stands where ----------------------------------------------------------------------------------------------------


def test_each_label_is_dealt_out_evenly():
    rows = [example(row["text"], row["label"]) for row in keyword_rows(100, LABELS, seed=3)]
    parts = splits.folds(Classification, rows, 5)
    assert set(Counter(zip((row.label for row in rows), parts, strict=True)).values()) == {5}


@given(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.sampled_from("xyz")), min_size=1), st.integers(2, 20))
def test_no_text_stands_in_two_folds_and_folds_differ_by_one_text(pairs, count):
    rows = [example(text if number % 2 else f" {text.upper()} ", label) for number, (text, label) in enumerate(pairs)]
    parts = splits.folds(Classification, rows, count)
    of_text = defaultdict(set)
    for row, part in zip(rows, parts, strict=True):
        of_text[normalise(row.text)].add(part)
    assert all(len(found) == 1 for found in of_text.values())
    sizes = Counter(next(iter(found)) for found in of_text.values())
    assert max(sizes.values()) - min(sizes.get(part, 0) for part in range(count)) <= 1


def test_the_order_of_the_rows_does_not_matter():
    rows = [example(row["text"], row["label"]) for row in keyword_rows(30, LABELS, seed=3)]
    assert splits.folds(Classification, rows[::-1], 4)[::-1] == splits.folds(Classification, rows, 4)


def test_questions_on_one_context_stay_in_one_fold():
    task_cls = task_type("qa")
    rows = [
        task_cls.Example(question=f"q{number}", context=f"text {number % 5}", answers={"text": ["text"], "answer_start": [0]})
        for number in range(20)
    ]
    parts = splits.folds(task_cls, rows, 5)
    assert {len({part for row, part in zip(rows, parts, strict=True) if row.context == f"text {it}"}) for it in range(5)} == {1}


def test_every_row_validates_once_and_is_trained_on_otherwise(world):
    settings = world.settings(**FOLDS)
    everything = sorted(row.text for row in world.dataset.train)
    validated = []
    for fold in range(3):
        found = select_rows(Start(), settings, world.storage, world.dataset.version.uri, fold)
        assert sorted(row.text for row in (*found.train, *found.validation)) == everything
        assert {row.text for row in found.train}.isdisjoint(row.text for row in found.validation)
        validated += [row.text for row in found.validation]
    assert sorted(validated) == everything


def test_the_last_training_sees_all_rows_of_train_and_none_of_the_holdout(world, tmp_path):
    trainer = build_trainer(world.worker_config, world.settings(**FOLDS), tmp_path, 1)
    tokens = {tuple(row["input_ids"]) for row in trainer.train_dataset}
    wanted, held = (
        {tuple(trainer.processing_class(row.text)["input_ids"]) for row in side}
        for side in (world.dataset.train, world.dataset.holdout)
    )
    assert tokens == wanted
    assert tokens.isdisjoint(held)


# --- what the tasks do ---------------------------------------------------------------------------------------------------


def test_a_fold_tells_its_f1_after_each_epoch_and_reports_which_it_is(world):
    fold = train_fold(asdict(replace(world.worker_config, fold=1)), 3)
    assert len(fold.scores) == 3
    assert len(fold.rows) == 20
    assert fold.outputs == []  # classification has nothing to calibrate
    progress = world.registry.runs.get(world.worker_config.run_id).progress
    assert (progress["fold"], progress["folds"]) == (2, 3)
    assert progress["f1"] == pytest.approx(fold.scores[-1])


def test_the_last_training_ends_after_the_epochs_that_the_folds_chose(world, tmp_path):
    shorter = train_all(asdict(world.worker_config), 2)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= shorter.keys()
    (tmp_path / "model.safetensors").write_bytes(shorter["model.safetensors"])
    trainer = build_trainer(world.worker_config, world.settings(**FOLDS), tmp_path, 1)
    trainer.args.eval_strategy = "no"  # the whole schedule, of which two epochs are kept
    trainer.train()
    checkpoint = sorted((tmp_path / "checkpoints").iterdir())
    assert len(checkpoint) == 1
    whole, two = load_file(checkpoint[0] / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert not torch.equal(whole["classifier.weight"], two["classifier.weight"])
    (tmp_path / "again").mkdir()
    again = build_trainer(world.worker_config, world.settings(**FOLDS), tmp_path / "again", 1)
    again.args.eval_strategy = "no"
    again.args.save_total_limit = None
    again.train()
    steps = again.state.max_steps // 3
    second = load_file(tmp_path / "again" / "checkpoints" / f"checkpoint-{2 * steps}" / "model.safetensors")
    assert all(torch.equal(second[name], two[name]) for name in two)


@pytest.mark.parametrize(
    ("scores", "best", "at_four"),
    [([0.1, 0.9, 0.3, 0.2, 0.1], 2, 3), ([0.5], 1, 0), ([0.5, 0.7, 0.7], 2, 2)],
)
def test_a_folds_best_epoch_is_the_first_best_and_one_that_stopped_early_counts_as_it_ended(scores, best, at_four):
    fold = Fold(rows=[], scores=scores, outputs=[])
    assert (fold.best_epoch, fold.index_of(4)) == (best, at_four)


def test_a_task_that_calibrates_itself_gets_an_output_for_each_row_that_was_held_back_in_each_epoch(tiny_base, tmp_path):
    lines = [{"text": row["text"], "label": [row["label"]]} for row in keyword_rows(45, LABELS, seed=1)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = ModelSettings.model_validate(
        {
            "name": "m",
            "task": "multi_label",
            "base_model": str(tiny_base),
            "data": {"train": str(tmp_path / "rows.jsonl"), "holdout": 0.3},
            "training": {"folds": 2, "epochs": 2, "learning_rate": 5e-5, "batch_size": 8, "device": "cpu", "precision": "fp32"},
        }
    )
    registry, storage = migrated_registry(f"sqlite:///{tmp_path}/baton.db"), Storage(str(tmp_path / "storage"))
    registry.declare_model("m")
    frozen = datasets.freeze("m", task_type("multi_label"), settings.data, storage)
    worker_config = WorkerConfig(
        run_id=registry.runs.create("m", {}, started=True).id,
        settings=settings.model_dump(mode="json"),
        labels=frozen.version.labels,
        dataset_uri=frozen.version.uri,
        storage=storage.url,
        database=f"sqlite:///{tmp_path}/baton.db",
        threads=1,
        use_gpu=False,
    )
    folds = [train_fold(asdict(replace(worker_config, fold=number)), 2) for number in range(2)]
    assert sorted(row.text for fold in folds for row in fold.rows) == sorted(row.text for row in frozen.train)
    for fold in folds:
        assert [len(outputs) for outputs in fold.outputs] == [len(fold.rows)] * 2
        assert fold.outputs[0] != fold.outputs[1]
    task = settings.make_task(frozen.version.labels)
    thresholds = task.calibrate([it for fold in folds for it in fold.outputs[-1]], [row for fold in folds for row in fold.rows])
    assert thresholds.keys() == set(frozen.version.labels)


def test_the_settings_choose_the_method(world):
    assert choose_method(world.settings(**FOLDS).training) is cross_validate
