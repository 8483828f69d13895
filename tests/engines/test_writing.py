"""The torch engine lets a model write: within bounds, alike each time, and no longer than somebody waits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from baton.engines import Batch, EngineSettings, WritingEngine, load_engine
from baton.errors import NotFinite
from baton.generation import Generation
from tests.support.writers import build_tiny_writer

IDS = np.array([[40, 41, 42, 1], [50, 51, 1, 0]])
BATCH: Batch = {"input_ids": IDS, "attention_mask": (IDS != 0).astype(np.int64)}


def never() -> bool:
    return False


def engine_of(directory: Path) -> WritingEngine:
    engine = load_engine(directory, "AutoModelForSeq2SeqLM", ("tokens",), EngineSettings(device="cpu", threads=1))
    assert isinstance(engine, WritingEngine)
    return engine


@pytest.fixture
def writer(tmp_path: Path) -> Path:
    return build_tiny_writer(tmp_path, spread=0.3)


def test_no_more_tokens_are_written_than_allowed_and_a_search_finds_likelier_ones(writer):
    engine = engine_of(writer)
    for length in (1, 5, 12):
        assert engine.write(BATCH, Generation(max_new_tokens=length), never)["tokens"].shape[1] <= length
    greedy, searched = (
        engine.write(BATCH, Generation(max_new_tokens=12, num_beams=beams), never)["tokens"] for beams in (1, 4)
    )
    assert not np.array_equal(greedy, searched)


def test_a_configuration_that_draws_tokens_by_chance_does_not_make_answers_differ(writer):
    first = engine_of(writer).write(BATCH, Generation(max_new_tokens=12), never)["tokens"]
    file = writer / "generation_config.json"
    drawn = {"do_sample": True, "temperature": 9.0, "num_return_sequences": 2, "max_length": 3, "min_length": 99}
    file.write_text(json.dumps(json.loads(file.read_text()) | drawn))
    again = engine_of(writer)
    assert np.array_equal(again.write(BATCH, Generation(max_new_tokens=12), never)["tokens"][:, :3], first[:, :3])
    repeated = [again.write(BATCH, Generation(max_new_tokens=12), never)["tokens"] for _ in range(2)]
    assert np.array_equal(*repeated)


def test_writing_ends_once_nobody_waits(writer):
    calls = 0

    def gone() -> bool:
        nonlocal calls
        calls += 1
        return calls >= 3

    long = Generation(max_new_tokens=1024)
    assert engine_of(writer).write(BATCH, long, gone)["tokens"].shape == (2, 3)
    calls = 0
    assert engine_of(writer).write(BATCH, Generation(max_new_tokens=1024, num_beams=3), gone)["tokens"].shape[1] <= 3


def test_a_model_whose_training_diverged_is_told_and_writes_nothing(writer):
    engine = engine_of(writer)
    with torch.no_grad():
        engine._model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NotFinite, match="are not numbers"):
        engine.write(BATCH, Generation(), never)


def test_it_writes_in_full_precision_unless_told_otherwise(writer):
    assert engine_of(writer).description == "torch cpu fp32"
    told = EngineSettings(device="cpu", precision="bf16", threads=1)
    assert load_engine(writer, "AutoModelForSeq2SeqLM", ("tokens",), told).description == "torch cpu bf16"
