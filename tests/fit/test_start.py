"""Starting from the champion: exactly its weights, with its outputs mapped by label, on every machine, and recorded."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from baton.engines.torch_engine import load_model
from baton.errors import CorruptVersion
from baton.store.records import ModelVersion
from baton.wording import counted
from tests.support.tiny import keyword_rows
from tests.support.world import LABELS, World, last_checkpoint, same, weights_of, whole_and_resumed
from training import matches
from training.fit import start as starts
from training.fit.start import Start
from training.fit.weights import relabel
from training.fit.worker import build_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

CHAMPION = {"start_from": "champion"}
MORE = ("account", *LABELS)
"""A label that the champion does not know, in front of all others."""


@pytest.fixture
def world(tiny_base: Path, tmp_path: Path) -> World:
    (tmp_path / "world").mkdir()
    return World(tiny_base, tmp_path / "world", rows=60)


@pytest.fixture(scope="module")
def checkpoint(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an epoch of training. Every world below begins with the same data."""
    trainer = World(tiny_base, tmp_path_factory.mktemp("first"), rows=60).trainer(tmp_path_factory.mktemp("scratch"), epochs=1)
    trainer.train()
    return last_checkpoint(trainer)


def published_champion(world: World, checkpoint: Path) -> ModelVersion:
    """Publish the checkpoint, and make it the world's champion."""
    version = world.publish(checkpoint)
    world.make_champion(version)
    return version


def begin(world: World, **training: Any) -> Start:
    """Return the start that the driver finds, and set it for the world's trainers."""
    found = starts.find_start(world.settings(**training), world.registry, world.storage, world.dataset)
    world.worker_config = replace(world.worker_config, start=asdict(found))
    return found


def freeze_more(world: World, labels: Sequence[str], rows: int = 100) -> None:
    """Freeze a data set with further rows, and with these labels only."""
    old = [row.model_dump(exclude_none=True) for row in world.dataset.train if row.label in labels]
    world.freeze([*old, *keyword_rows(rows, labels, seed=5)], keyword_rows(40, labels, seed=6))


def classifier_logits(model: Any, ids: Sequence[int] = (2, 40, 41, 42, 3)) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([ids])).logits[0]


# --- the weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [None, "memory://{}"])
def test_a_run_starts_with_the_champions_very_weights(tiny_base, checkpoint, tmp_path, url):
    (tmp_path / "world").mkdir()
    world = World(tiny_base, tmp_path / "world", rows=60, storage=url and url.format(uuid.uuid4().hex))
    version = published_champion(world, checkpoint)
    assert begin(world, **CHAMPION).parent == version.number
    directory, _ = world.storage.fetch(version, tmp_path / "cache")
    assert same(load_file(directory / "model.safetensors"), weights_of(world.trainer(tmp_path / "next", **CHAMPION)))


def test_a_run_from_the_base_takes_nothing_from_the_champion(world, checkpoint, tmp_path):
    fresh = weights_of(world.trainer(tmp_path / "before"))
    published_champion(world, checkpoint)
    found = begin(world)
    assert (found.parent, found.reason) == (None, "training.start_from is base")
    assert same(fresh, weights_of(world.trainer(tmp_path / "after")))


def test_new_labels_extend_the_head_and_old_ones_keep_their_logits_wherever_they_stand(world, checkpoint, tmp_path):
    version = published_champion(world, checkpoint)
    directory, _ = world.storage.fetch(version, tmp_path / "cache")
    champion = load_model("AutoModelForSequenceClassification", directory)
    freeze_more(world, MORE)
    found = begin(world, **CHAMPION)
    assert (list(found.new_labels), list(found.dropped_labels)) == (["account"], [])
    trainer = world.trainer(tmp_path / "next", **CHAMPION)
    model, texts = trainer.model, [row["input_ids"] for row in trainer.eval_dataset]
    assert model.config.label2id == {label: place for place, label in enumerate(MORE)}
    assert torch.equal(model.classifier.weight[1:], champion.classifier.weight)
    for ids in texts:
        before, after = classifier_logits(champion, ids), classifier_logits(model, ids)
        assert after.shape == (5,)
        torch.testing.assert_close(after[1:], before, atol=1e-7, rtol=1e-6)  # a matrix of another shape rounds otherwise


def test_a_label_that_the_data_lack_disappears(world, checkpoint, tmp_path):
    version = published_champion(world, checkpoint)
    directory, _ = world.storage.fetch(version, tmp_path / "cache")
    head = load_file(directory / "model.safetensors")["classifier.weight"]
    freeze_more(world, ["billing", "cancel", "shipping"])
    found = begin(world, **CHAMPION)
    assert (list(found.new_labels), list(found.dropped_labels)) == ([], ["bug"])
    model = world.trainer(tmp_path / "next", **CHAMPION).model
    assert torch.equal(model.classifier.weight, head[[0, 2, 3]])


@pytest.mark.parametrize(
    ("config", "auto", "known", "labels"),
    [
        (transformers.BertConfig, "SequenceClassification", "abc", "abxc"),
        (transformers.RobertaConfig, "SequenceClassification", "abc", "ca"),
        (transformers.DistilBertConfig, "SequenceClassification", "ab", "xy"),
        (transformers.BertConfig, "TokenClassification", ["O", "B-X", "I-X"], ["O", "B-A", "I-A", "B-X", "I-X"]),
        (transformers.ElectraConfig, "SequenceClassification", "abc", "cab"),
    ],
)
def test_outputs_are_found_by_name_in_every_architecture(config, auto, known, labels):
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    small |= {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    names = dict(enumerate(known))
    old = getattr(transformers, f"AutoModelFor{auto}").from_config(config(vocab_size=60, id2label=names, **small)).eval()
    new = relabel(old, known, labels).eval()
    before, after = (classifier_logits(model, [7, 8, 9]) for model in (old, new))
    assert after.shape[-1] == len(labels)
    assert new.config.id2label == dict(enumerate(labels))
    for place, label in enumerate(labels):
        if label in known:
            torch.testing.assert_close(after[..., place], before[..., known.index(label)], atol=1e-7, rtol=1e-6)
        else:
            assert not any(torch.equal(after[..., place], before[..., column]) for column in range(len(known)))


def test_a_model_with_the_labels_of_the_data_is_left_alone(tiny_base):
    model = load_model("AutoModelForSequenceClassification", tiny_base, LABELS)
    assert relabel(model, LABELS, list(LABELS)) is model


def test_question_answering_goes_on_with_its_head_as_it_is(tiny_base):
    model = load_model("AutoModelForQuestionAnswering", tiny_base, ())
    assert relabel(model, (), []) is model


def test_adapters_and_frozen_layers_go_on_from_the_champion(world, checkpoint, tmp_path):
    version = published_champion(world, checkpoint)
    directory, _ = world.storage.fetch(version, tmp_path / "cache")
    before = load_file(directory / "model.safetensors")
    begin(world, **CHAMPION)
    trainer = world.trainer(tmp_path / "next", tune="lora", epochs=1, **CHAMPION)
    trainer.train()
    after = load_file(last_checkpoint(trainer) / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert moved
    assert all("embeddings" not in name and "LayerNorm" not in name for name in moved)


def test_a_resumed_run_ends_as_if_it_had_never_stopped(world, checkpoint, tmp_path):
    published_champion(world, checkpoint)
    freeze_more(world, MORE, rows=40)
    begin(world, **CHAMPION)
    assert same(*whole_and_resumed(world, tmp_path, epochs=2, replay=1.0, **CHAMPION))


# --- the rows ------------------------------------------------------------------------------------------------------------


def test_replay_keeps_what_the_champion_knew_and_without_it_that_is_forgotten(tiny_base, tmp_path):
    (tmp_path / "world").mkdir()
    world = World(tiny_base, tmp_path / "world", rows=300)
    old = [row.model_dump(exclude_none=True) for row in world.dataset.train]
    asked = world.dataset.holdout
    trainer = world.trainer(tmp_path / "first")
    trainer.train()
    published_champion(world, last_checkpoint(trainer))
    assert world.f1(last_checkpoint(trainer), asked) > 0.9
    world.freeze([*old, *keyword_rows(60, ["account"], seed=5)], [row.model_dump(exclude_none=True) for row in asked])

    def after(replay: float) -> float:
        """F1 on the old labels' rows, after the new label was learned."""
        begin(world, replay=replay, **CHAMPION)
        trainer = world.trainer(tmp_path / f"replay {replay}", replay=replay, **CHAMPION)
        trainer.train()
        return world.f1(last_checkpoint(trainer), asked)

    assert after(0.0) < 0.5
    assert after(3.0) > 0.9


def test_the_driver_reports_the_rows_that_the_workers_train_on(world, checkpoint, tmp_path):
    published_champion(world, checkpoint)
    known = {row.text for row in world.dataset.train}
    freeze_more(world, MORE, rows=30)
    found = begin(world, replay=0.5, **CHAMPION)
    trainer = world.trainer(tmp_path / "next", replay=0.5, **CHAMPION)
    assert len(trainer.train_dataset) == found.new_rows + found.replayed_rows
    assert found.replayed_rows == round(0.5 * found.new_rows)
    assert 0 < found.replayed_rows < found.known_rows
    of_known = counted(found.known_rows, "known row")
    counts = f"{counted(found.new_rows, 'new row')}, {found.replayed_rows:,} of {of_known} replayed"
    assert found.sentence() == f"from v1: {counts}"
    tokens = {tuple(trainer.processing_class(text)["input_ids"]) for text in known}
    replayed = sum(tuple(row["input_ids"]) in tokens for row in trainer.train_dataset)
    assert replayed == found.replayed_rows


def test_the_champion_is_judged_on_a_holdout_with_a_label_that_it_does_not_know(world, checkpoint, tmp_path):
    published_champion(world, checkpoint)
    freeze_more(world, MORE)
    version = world.dataset.version
    champion = world.registry.champion_version("m")
    evaluation = matches.evaluate_version(world.context(), champion, world.dataset.holdout, version.holdout_hash)
    assert 0 <= evaluation.metrics["f1"] < 1


# --- where it comes from -------------------------------------------------------------------------------------------------


def test_the_first_run_of_a_model_starts_from_the_base_and_says_so(world, tmp_path):
    fresh = weights_of(world.trainer(tmp_path / "plain"))
    found = begin(world, **CHAMPION)
    assert (found.parent, found.reason) == (None, "there is no champion yet")
    assert found.sentence() == "from the base model: there is no champion yet"
    assert same(fresh, weights_of(world.trainer(tmp_path / "next", **CHAMPION)))


def test_a_champion_of_another_base_model_or_task_is_not_gone_on_from_and_the_reason_says_so(world, checkpoint, tmp_path):
    published_champion(world, checkpoint)
    for what, ours in (("base_model", "some/bert"), ("task", "multi_label")):
        settings = world.settings(**CHAMPION).model_copy(update={what: ours})
        found = starts.find_start(settings, world.registry, world.storage, world.dataset)
        assert found.parent is None
        assert found.reason.startswith(f"the champion, v1, has the {what.replace('_', ' ')} ")
        assert found.reason.endswith(f", but this run has {ours}")


def test_a_champion_that_was_altered_ends_the_run_before_any_worker_starts(world, checkpoint, tmp_path):
    version = published_champion(world, checkpoint)
    directory, _ = world.storage.fetch(version, tmp_path / "cache")
    weights = bytearray((directory / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (directory / "model.safetensors").write_bytes(weights)
    with pytest.raises(CorruptVersion, match=r"model\.safetensors was altered"):
        begin(world, **CHAMPION)


def test_a_worker_never_starts_from_other_bytes_than_the_driver_saw(world, checkpoint, tmp_path):
    published_champion(world, checkpoint)
    found = begin(world, **CHAMPION)
    worker_config = replace(world.worker_config, start=asdict(replace(found, manifest_sha256="0" * 64)))
    with pytest.raises(CorruptVersion, match="is not the one that was registered"):
        build_trainer(worker_config, world.settings(**CHAMPION), tmp_path / "next", 1)


def test_the_lineage_names_the_parent_and_counts_the_rows(world, checkpoint, tmp_path):
    assert published_champion(world, checkpoint).lineage["parent"] is None
    freeze_more(world, MORE, rows=30)
    found = begin(world, **CHAMPION)
    trainer = world.trainer(tmp_path / "next", epochs=1, tune="head", **CHAMPION)
    trainer.train()
    lineage = world.publish(last_checkpoint(trainer), found).lineage
    assert lineage["parent"] == 1
    assert lineage["start"] == {
        "parent": 1,
        "reason": "v1 is the champion",
        "new_labels": ["account"],
        "dropped_labels": [],
        "new_rows": found.new_rows,
        "replayed_rows": found.replayed_rows,
        "known_rows": found.known_rows,
    }
