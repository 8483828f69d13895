"""Decoders whose configuration names no padding token, as people have them: the tokenizer's is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from tests.support.world import World, last_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def decoder(tiny_base: Path, tmp_path: Path) -> Path:
    """A tiny random GPT-2 with the tokenizer of the tiny base model."""
    directory = tmp_path / "gpt2"
    shutil.copytree(tiny_base, directory, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    vocabulary = len(transformers.AutoTokenizer.from_pretrained(directory))
    config = transformers.GPT2Config(vocab_size=vocabulary, n_positions=128, n_embd=32, n_layer=2, n_head=4, pad_token_id=None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.GPT2Model(config).save_pretrained(directory)
    assert json.loads((directory / "config.json").read_text()).get("pad_token_id") is None
    return directory


def test_it_trains_and_answers_alone_as_in_company(decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    world = World(decoder, tmp_path / "world", rows=120)
    trainer = world.trainer(tmp_path, epochs=2)
    trainer.train()
    version = world.publish(last_checkpoint(trainer))
    directory, manifest = world.storage.fetch(version, tmp_path / "unused")
    padding = transformers.AutoTokenizer.from_pretrained(decoder).pad_token_id
    assert json.loads((directory / "config.json").read_text())["pad_token_id"] == padding
    predictor = world.predictor(directory)
    inputs = [predictor.task.from_wire(text) for text in ("a crash", "hello, please, " * 20 + "about the invoice", "refund")]
    together = predictor.predict(inputs)
    for item, answer in zip(inputs, together, strict=True):
        assert predictor.task.difference(predictor.predict([item])[0], answer) < 1e-5
    assert len(manifest.labels) > 1
