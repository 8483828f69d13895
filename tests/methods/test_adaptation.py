"""Adaptation: it selects the right texts, learns from them, and fine-tuning starts from the adapted base model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from baton.artifacts.storage import Storage
from baton.config.file import load_config
from baton.config.model_settings import ModelSettings
from baton.config.training_settings import AdaptSettings
from baton.errors import ConfigError, DataError
from baton.tasks import task_type
from baton.tasks.classification import Classification
from baton.text.normal_form import fingerprint
from tests.support.tiny import build_tiny_base, keyword_rows
from tests.support.world import LABELS, World, same, weights_of
from training.fit import weights
from training.fit.start import Start
from training.fit.worker import build_trainer
from training.methods import masked
from training.methods.domain_texts import Texts, gather_texts

pytestmark = pytest.mark.usefixtures("one_thread")
ADAPT = {"data": "texts.txt", "epochs": 2, "learning_rate": 1e-3, "batch_size": 16}


def write(path: Path, texts: Sequence[str]) -> AdaptSettings:
    path.write_text("\n".join(texts), encoding="utf-8")
    return AdaptSettings(data=str(path))


def example(text: str, **more: Any) -> Any:
    return Classification.Example(text=text, label="x", **more)


# --- texts ---------------------------------------------------------------------------------------------------------------


def test_texts_of_the_holdout_are_left_out_however_they_are_written_and_counted(tmp_path):
    settings = write(tmp_path / "texts.txt", ["One", "two", "HOLD  me", "ｈｏｌｄ me", "three", "", "  ", "One", "four"])
    texts = gather_texts(settings, Classification, [example("Hold me")])
    assert sorted((*texts.train, *texts.held_back)) == ["One", "four", "three", "two"]
    assert (texts.removed_leaks, texts.removed_duplicates) == (2, 1)


def test_texts_that_belong_to_the_holdout_for_ever_are_left_out_though_it_lacks_them_now(tmp_path):
    settings = write(tmp_path / "texts.txt", ["one", "HELD  before", "two"])
    texts = gather_texts(settings, Classification, [], {fingerprint("held before")})
    assert sorted((*texts.train, *texts.held_back)) == ["one", "two"]
    assert texts.removed_leaks == 1


def test_each_text_of_a_pair_is_a_leak(tmp_path):
    settings = write(tmp_path / "texts.txt", ["first", "second", "third", "fourth"])
    texts = gather_texts(settings, Classification, [example("First", text_pair="Second")])
    assert sorted((*texts.train, *texts.held_back)) == ["fourth", "third"]


def test_a_question_and_its_context_are_leaks(tmp_path):
    task_cls = task_type("qa")
    row = task_cls.Example(question="Who?", context="It was Ada.", answers={"text": ["Ada"], "answer_start": [7]})
    texts = gather_texts(write(tmp_path / "texts.txt", ["who?", "it was  ada.", "a", "b"]), task_cls, [row])
    assert texts.removed_leaks == 2


def test_which_texts_are_held_back_does_not_depend_on_their_order(tmp_path):
    many = [f"text number {number}" for number in range(50)]
    first = gather_texts(write(tmp_path / "one.txt", many), Classification, [])
    second = gather_texts(write(tmp_path / "two.txt", many[::-1]), Classification, [])
    assert first == second
    assert len(first.held_back) == 5
    assert set(first.train).isdisjoint(first.held_back)


def test_json_lines_have_the_field_text(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "one", "label": "ignored"}\n{"text": "two"}\n')
    texts = gather_texts(AdaptSettings(data=str(path)), Classification, [])
    assert sorted((*texts.train, *texts.held_back)) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "one"}\n{"txt": "two"}\n', "line 2: field 'text' must be a string, not None"),
        ("a.jsonl", "no json\n", "line 1: not valid JSON"),
        (
            "a.txt",
            "hold me\none\n",
            "1 text left to adapt to (1 removed because they are in the holdout); at least 2 are needed",
        ),
        ("a.txt", None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_the_reason(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        gather_texts(AdaptSettings(data=str(tmp_path / name)), Classification, [example("hold me")])
    assert said in str(caught.value)


def test_the_file_is_relative_to_the_configuration(tmp_path):
    model = {"name": "m", "task": "classification", "data": {"train": "rows.csv"}, "training": {"adapt": {"data": "texts.txt"}}}
    (tmp_path / "baton.yaml").write_text(json.dumps({"models": [model]}))
    adapt = load_config(tmp_path / "baton.yaml", {}).model("m").training.adapt
    assert adapt is not None
    assert adapt.data == str(tmp_path / "texts.txt")


# --- training ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts() -> Texts:
    lines = [row["text"] for row in keyword_rows(220, LABELS, seed=11)]
    return Texts(train=lines[:200], held_back=lines[200:], removed_leaks=0, removed_duplicates=0)


@pytest.fixture(scope="module")
def world(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tiny_base, tmp_path_factory.mktemp("world"), rows=80)


@pytest.fixture(scope="module")
def trained(world: World, texts: Texts, tmp_path_factory: pytest.TempPathFactory) -> tuple[transformers.Trainer, float]:
    """A trainer that has adapted the tiny base, and the loss before."""
    trainer = masked.build_masked_trainer(
        world.settings(adapt=ADAPT), texts, tmp_path_factory.mktemp("adapt"), 1, use_gpu=False
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    return trainer, before


def test_the_loss_on_texts_held_back_falls(trained):
    trainer, before = trained
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry][-2:]
    assert before > losses[0] > losses[1]


def test_a_share_of_the_tokens_is_to_be_guessed_anew_in_each_epoch_and_the_measure_stays(world, texts, tmp_path):
    trainer = masked.build_masked_trainer(world.settings(adapt={**ADAPT, "mask": 0.3}), texts, tmp_path, 1, use_gpu=False)
    rows = trainer.train_dataset[:60]
    first, second = trainer.data_collator(rows), trainer.data_collator(rows)
    share = (first["labels"] != -100).sum() / first["attention_mask"].sum()
    assert share == pytest.approx(0.3, abs=0.06)
    assert not torch.equal(first["labels"], second["labels"])
    special = torch.isin(torch.tensor([row["input_ids"][0] for row in rows]), first["labels"][:, 0])
    assert not special.any()  # [CLS] is never to be guessed
    assert torch.equal(
        trainer.data_collator(trainer.eval_dataset[:8])["labels"], trainer.data_collator(trainer.eval_dataset[:8])["labels"]
    )


def test_long_texts_become_windows_that_share_nothing(world):
    from baton.predict.predictor import load_tokenizer

    tokenizer, _ = load_tokenizer(world.base)
    [whole] = masked.windows(tokenizer, ["the river is quiet and the garden is green again"], 128)
    pieces = masked.windows(tokenizer, ["the river is quiet and the garden is green again"], 6)
    assert [token for piece in pieces for token in piece["input_ids"][1:-1]] == whole["input_ids"][1:-1]
    assert all(len(piece["input_ids"]) <= 6 for piece in pieces)


def test_the_adapted_base_has_a_changed_encoder_and_the_pooler_of_the_old_one(trained, tiny_base, tmp_path):
    masked.save_base(trained[0], tiny_base, tmp_path / "base")
    before, after = load_file(tiny_base / "model.safetensors"), load_file(tmp_path / "base" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if not name.startswith("pooler.")}
    assert torch.equal(
        after["embeddings.word_embeddings.weight"], weights_of(trained[0])["bert.embeddings.word_embeddings.weight"]
    )


def test_the_fresh_head_for_words_shares_the_embeddings(trained):
    model = trained[0].model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_fine_tuning_starts_from_the_adapted_encoder_with_a_fresh_head(trained, world, tmp_path):
    masked.save_base(trained[0], world.base, Path(world.storage.runs_path) / "run" / "adapt" / "checkpoint" / "base")
    start = Start(prepared="run/adapt/checkpoint/base")
    plain = world.trainer(tmp_path)
    (tmp_path / "adapted").mkdir()
    adapted = build_trainer(replace(world.worker_config, start=asdict(start)), world.settings(), tmp_path / "adapted", 1)
    first, second = weights_of(plain), weights_of(adapted)
    heads = [{name: it for name, it in state.items() if name.startswith("classifier.")} for state in (first, second)]
    assert same(*heads)
    encoder = load_file(Path(world.storage.runs_path) / "run" / "adapt" / "checkpoint" / "base" / "model.safetensors")
    assert all(torch.equal(second[f"bert.{name}"], tensor) for name, tensor in encoder.items())
    assert not torch.equal(
        first["bert.encoder.layer.0.output.dense.weight"], second["bert.encoder.layer.0.output.dense.weight"]
    )
    assert "adapted" not in start.facts()


def test_from_remote_storage_the_adapted_base_is_fetched(tiny_base, tmp_path):
    storage = Storage("memory://adapted-test")
    for path in tiny_base.iterdir():
        storage._fs.pipe_file(f"{storage._root}/runs/run/adapt/checkpoint/base/{path.name}", path.read_bytes())
    settings = ModelSettings.model_validate({"name": "m", "task": "classification", "data": {"train": "x.jsonl"}})
    origin = weights.fetch(Start(prepared="run/adapt/checkpoint/base"), settings, storage, tmp_path / "cache")
    assert {path.name for path in origin.directory.iterdir()} == {path.name for path in tiny_base.iterdir()}
    assert origin.load(Classification, LABELS).config.num_labels == len(LABELS)


def test_a_tokenizer_without_a_mask_is_refused(world, texts, tmp_path):
    base = build_tiny_base(tmp_path / "base")
    told = json.loads((base / "tokenizer_config.json").read_text())
    told.pop("mask_token")
    (base / "tokenizer_config.json").write_text(json.dumps(told))
    shutil.rmtree(base / "special_tokens_map.json", ignore_errors=True)
    settings = world.settings(adapt=ADAPT).model_copy(update={"base_model": str(base)})
    with pytest.raises(
        ConfigError, match=r"the tokenizer of .* has no mask token; use a base model that was trained with masks, such as BERT"
    ):
        masked.build_masked_trainer(settings, texts, tmp_path, 1, use_gpu=False)
