"""The predictor with a model that writes: answers of one batch may have bounds of their own."""

from __future__ import annotations

from pathlib import Path

from baton.artifacts.manifest import Manifest
from baton.config.serving_settings import ServingSettings
from baton.generation import Generation
from baton.predict.predictor import Predictor
from tests.support.writers import build_tiny_writer

BOUNDS = ({}, {"max_new_tokens": 3}, {"num_beams": 4}, {"max_new_tokens": 3, "num_beams": 4})


def predictor_of(directory: Path, max_batch_tokens: int = 16384) -> Predictor:
    manifest = Manifest(
        model="m",
        task="seq2seq",
        labels=(),
        max_length=32,
        generation=Generation(max_new_tokens=12),
        base_model="tiny",
        dataset={},
        training={},
        metrics={},
        code_version="0",
    )
    serving = ServingSettings(device="cpu", max_batch_tokens=max_batch_tokens)
    return Predictor.load(directory, manifest, serving, threads=1)


def test_requests_with_other_bounds_share_a_batch_and_get_the_answers_that_they_get_alone(tmp_path):
    predictor = predictor_of(build_tiny_writer(tmp_path, spread=0.3))
    inputs = [predictor.task.from_wire(text) for text in ("4 July 1976", "a", "May 9, 1999", "something longer than that")] * 3
    options = [predictor.task.Options(**bounds) for bounds in BOUNDS for _ in range(3)]
    together = predictor.predict(inputs, options)
    assert together == [predictor.predict([item], [choice])[0] for item, choice in zip(inputs, options, strict=True)]
    assert len({answer.text for answer in together}) > 4
    assert [len(answer.text) <= 3 for answer in together[3:6]] == [True] * 3


def test_no_more_answers_are_written_at_once_than_the_budget_has_room_for(tmp_path):
    directory = build_tiny_writer(tmp_path, spread=0.3)
    predictor = predictor_of(directory, max_batch_tokens=60)
    inputs = [predictor.task.from_wire(text) for text in ("abcdefg", "hijklmn", "opqrstu")]
    options = predictor.task.Options(num_beams=2)
    steps = list(predictor.steps(inputs, [options] * 3))
    assert len(steps) == 1 + 3 + 1, (
        "tokenize, a pass for each source, and the answers: (8 + 12) tokens of two beams are 40 of 60"
    )
    assert steps[-1] == predictor_of(directory).predict(inputs, [options] * 3)
