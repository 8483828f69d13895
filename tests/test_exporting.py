"""The fastest engine that loses no F1 serves a version, and the version says what was measured."""

from __future__ import annotations

import pytest

from baton.artifacts.manifest import EngineChoice
from baton.config.serving_settings import ServingSettings
from baton.errors import NotExportable
from baton.tasks.classification import Classification
from tests.support.families import save_family
from training.exporting import Tried, drop_unused, export, fastest

AUTO_MODEL = Classification.auto_model


def tried(*numbers: tuple[float, float]) -> list[Tried]:
    names = ("onnx cpu int8", "onnx cpu fp32") if len(numbers) == 2 else ("onnx cpu int8", "torch cpu bf16", "onnx cpu fp32")
    return [
        Tried(description=name, metric=metric, latency_ms=latency)
        for name, (metric, latency) in zip(names, numbers, strict=True)
    ]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([(0.90, 3.0), (0.90, 6.0)], 0),
        ([(0.8951, 3.0), (0.90, 6.0)], 0),
        ([(0.894, 3.0), (0.90, 6.0)], 1),
        ([(0.92, 3.0), (0.90, 6.0)], 0),
        ([(0.90, 7.0), (0.90, 6.0)], 1),
        ([(0.90, 5.5), (0.90, 6.0)], 1),
        ([(0.90, 5.4), (0.90, 6.0)], 0),
        ([(0.80, 3.0), (0.90, 4.0), (0.90, 6.0)], 1),
        ([(0.80, 3.0), (0.80, 4.0), (0.90, 6.0)], 2),
    ],
)
def test_the_fastest_that_loses_at_most_half_a_point_serves(numbers, expected):
    assert fastest(tried(*numbers))[0] == expected


def test_a_faster_engine_that_loses_f1_is_named_with_its_loss():
    refused = "onnx cpu int8 scores 0.030 less on the holdout (allowed: 0.005)"
    assert fastest(tried((0.87, 3.0), (0.90, 6.0)))[1] == refused
    assert fastest(tried((0.87, 7.0), (0.90, 6.0)))[1] == "", "it is not faster, so that nobody misses it"
    assert fastest(tried((0.90, 3.0), (0.90, 6.0)))[1] == ""


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_family("bert", AUTO_MODEL, tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize(
    ("serving", "expected"),
    [
        ({}, ["onnx int8", "onnx fp32"]),
        ({"engine": "onnx"}, ["onnx int8", "onnx fp32"]),
        ({"precision": "fp32"}, ["onnx fp32"]),
        ({"precision": "int8"}, ["onnx int8"]),
        ({"precision": "bf16"}, ["torch auto"]),
        ({"engine": "torch"}, ["torch auto"]),
        ({"gpus": 1}, ["torch auto"]),
    ],
)
def test_the_settings_say_which_engines_are_tried(bert, serving, expected, monkeypatch):
    monkeypatch.setattr("baton.engines.torch_engine.has_fast_bf16", lambda device: False)
    choices, reason = export(bert, Classification, 64, ServingSettings(**serving), list)
    assert [f"{choice.library} {choice.precision}" for choice in choices] == expected
    assert reason == ""


def test_hardware_with_bf16_is_tried_too(bert, monkeypatch):
    monkeypatch.setattr("baton.engines.torch_engine.has_fast_bf16", lambda device: True)
    choices, _ = export(bert, Classification, 64, ServingSettings(), list)
    assert [f"{choice.library} {choice.precision}" for choice in choices] == ["onnx int8", "torch bf16", "onnx fp32"]


def test_what_cannot_be_exported_is_left_to_torch_unless_the_settings_forbid_it(tmp_path):
    directory = save_family("longformer", AUTO_MODEL, tmp_path)
    choices, reason = export(directory, Classification, 64, ServingSettings(), list)
    assert choices == (EngineChoice(library="torch"),)
    assert reason.startswith("the model cannot be exported for ONNX Runtime (")
    with pytest.raises(NotExportable, match=r"serving\.engine: .* allowed: auto, torch"):
        export(directory, Classification, 64, ServingSettings(engine="onnx"), list)


def test_files_that_serve_nothing_are_removed(bert):
    export(bert, Classification, 64, ServingSettings(), list)
    drop_unused(bert, EngineChoice(library="onnx", precision="int8"))
    assert {path.name for path in bert.glob("*.onnx")} == {"model.onnx", "model.int8.onnx"}
    drop_unused(bert, EngineChoice(library="onnx", precision="fp32"))
    assert {path.name for path in bert.glob("*.onnx")} == {"model.onnx"}
