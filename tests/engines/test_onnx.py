"""ONNX Runtime answers as torch does, for every family, whatever stands beside a text in its batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from baton.artifacts.manifest import EngineChoice, Manifest
from baton.config.serving_settings import ServingSettings
from baton.engines import Batch, Engine, EngineSettings, load_engine
from baton.engines.onnx_engine import FILES
from baton.engines.onnx_export import export_fp32, export_int8
from baton.engines.onnx_scales import fix_scales
from baton.errors import CorruptVersion, NotExportable
from baton.predict.predictor import READS_PADDING, Predictor
from baton.tasks.text_classifier import TextInput
from tests.support.families import (
    CLASSES,
    COMMON,
    FAMILIES,
    NOT_EXPORTABLE,
    SPAN,
    TOKENS,
    made_for,
    save_family,
)
from tests.support.tiny import save_classifier

LENGTH = 128
LONG_SPANS = ("longformer", SPAN)
HEADS = {CLASSES: ("logits",), TOKENS: ("logits",), SPAN: ("start_logits", "end_logits")}
FP32 = {
    "torch": EngineSettings(library="torch", precision="fp32", device="cpu"),
    "onnx": EngineSettings(library="onnx", precision="fp32"),
}
CASES = [(family, auto_model) for auto_model in HEADS for family in made_for(auto_model) if (family, auto_model) != LONG_SPANS]


def batch_of(*lengths: int, pad_id: int = 0) -> dict[str, np.ndarray]:
    """Return a batch of texts with random tokens; a text is the same wherever it stands, because its length seeds it."""
    width = max(lengths)
    ids = np.full((len(lengths), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = np.random.default_rng(length).integers(5, COMMON["vocab_size"], length)
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def first_row(engine: Engine, batch: Batch, heads: tuple[str, ...], length: int) -> np.ndarray:
    """Return what a model answers to the first text of a batch, without its padding."""
    logits = engine.forward(batch)
    rows = [logits[head][0] for head in heads]
    per_token = rows[0].shape[0] == batch["input_ids"].shape[1]
    return np.concatenate([row[:length].ravel() if per_token else row for row in rows])


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    made: dict[tuple[str, str], Path] = {}

    def make(model_type: str, auto_model: str) -> Path:
        key = (model_type, auto_model)
        if key not in made:
            made[key] = save_family(model_type, auto_model, tmp_path_factory.mktemp(model_type))
        return made[key]

    return make


@pytest.mark.parametrize(("model_type", "auto_model"), CASES)
def test_a_text_gets_one_answer_from_each_engine_alone_and_beside_longer_ones(family, model_type, auto_model):
    directory, heads = family(model_type, auto_model), HEADS[auto_model]
    libraries = ["torch"]
    if model_type not in NOT_EXPORTABLE:
        export_fp32(directory, auto_model, heads, LENGTH)
        libraries.append("onnx")
    pad_id = FAMILIES[model_type].get("pad_token_id", 0)
    answers = [
        first_row(engine, batch_of(*lengths, pad_id=pad_id), heads, 7)
        for engine in (load_engine(directory, auto_model, heads, FP32[library]) for library in libraries)
        for lengths in (((7,), (7, 7)) if model_type in READS_PADDING else ((7,), (7, 90, 3), (7, LENGTH)))
    ]
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-4)
    assert np.ptp(answers[0]) > 1e-2, "the model answers the same to everything, so that nothing was tested"


@pytest.mark.parametrize("model_type", sorted(NOT_EXPORTABLE))
def test_a_family_that_cannot_be_exported_says_why_and_leaves_no_file(family, model_type):
    directory = family(model_type, CLASSES)
    with pytest.raises(NotExportable, match=r"\w+"):
        export_fp32(directory, CLASSES, ("logits",), LENGTH)
    assert not list(directory.glob("*.onnx"))


def test_the_graph_in_fp32_has_no_weights_of_its_own(family):
    directory = family("bert", CLASSES)
    export_fp32(directory, CLASSES, ("logits",), LENGTH)
    weights, graph = (directory / name for name in ("model.safetensors", "model.onnx"))
    content = weights.read_bytes()
    assert graph.stat().st_size < weights.stat().st_size
    weights.write_bytes(content[:-4096] + bytes(4096))
    changed = load_engine(directory, CLASSES, ("logits",), FP32["onnx"]).forward(batch_of(7))["logits"]
    weights.write_bytes(content)
    assert not np.allclose(changed, load_engine(directory, CLASSES, ("logits",), FP32["onnx"]).forward(batch_of(7))["logits"])


def test_int8_is_a_quarter_of_the_size_and_near_the_exact_answers(family, caplog):
    directory = family("bert", CLASSES)
    export_fp32(directory, CLASSES, ("logits",), LENGTH)
    export_int8(directory)
    assert [record.getMessage() for record in caplog.records if record.name == "root"] == []
    int8 = load_engine(directory, CLASSES, ("logits",), EngineSettings(library="onnx", precision="int8"))
    exact = load_engine(directory, CLASSES, ("logits",), FP32["onnx"])
    batch = batch_of(7, 90, 3)
    ours, theirs = (engine.forward(batch)["logits"] for engine in (int8, exact))
    assert 0 < np.abs(ours - theirs).max() < 0.2 * np.ptp(theirs)
    assert (int8.description, exact.description) == ("onnx cpu int8 dynamic", "onnx cpu fp32")
    assert sorted(path.name for path in directory.glob("*.onnx")) == ["model.int8.onnx", "model.onnx"]


@pytest.mark.parametrize("model_type", sorted(set(FAMILIES) - set(NOT_EXPORTABLE)))
def test_with_fixed_scales_int8_answers_alone_as_beside_others_and_near_the_exact_model(family, model_type):
    directory = family(model_type, CLASSES)
    pad_id = FAMILIES[model_type].get("pad_token_id", 0)
    export_fp32(directory, CLASSES, ("logits",), LENGTH)
    export_int8(directory)
    fix_scales(directory / FILES["int8"], [batch_of(length) for length in (7, 30, 90)])
    int8 = load_engine(directory, CLASSES, ("logits",), EngineSettings(library="onnx", precision="int8"))
    assert int8.max_rows is None
    alone = first_row(int8, batch_of(7), ("logits",), 7)
    others = (7, 7) if model_type in READS_PADDING else (7, 90, 3)
    np.testing.assert_allclose(first_row(int8, batch_of(*others, pad_id=pad_id), ("logits",), 7), alone, atol=1e-4)
    exact = first_row(load_engine(directory, CLASSES, ("logits",), FP32["onnx"]), batch_of(7), ("logits",), 7)
    assert np.abs(alone - exact).max() < 0.3 * np.ptp(exact)


def test_the_scales_are_those_of_the_windows_and_not_of_the_text(family):
    """Of a text that brings about larger values than the windows did, these are cut off."""
    directory = family("bert", CLASSES)
    export_fp32(directory, CLASSES, ("logits",), LENGTH)
    answers = []
    for length in (1, 90):
        export_int8(directory)
        fix_scales(directory / FILES["int8"], [batch_of(length)])
        int8 = load_engine(directory, CLASSES, ("logits",), EngineSettings(library="onnx", precision="int8"))
        answers.append(int8.forward(batch_of(90))["logits"])
    assert np.abs(answers[0] - answers[1]).max() > 0.01


def test_windows_that_cannot_be_run_leave_the_scales_of_each_pass(family, tmp_path):
    directory = Path(shutil.copytree(family("bert", CLASSES), tmp_path / "broken"))
    export_fp32(directory, CLASSES, ("logits",), LENGTH)
    export_int8(directory)
    before = (directory / FILES["int8"]).read_bytes()
    window = batch_of(7)
    with pytest.raises(NotExportable):
        fix_scales(directory / FILES["int8"], [{**window, "input_ids": window["input_ids"] + COMMON["vocab_size"]}])
    assert (directory / FILES["int8"]).read_bytes() == before
    assert load_engine(directory, CLASSES, ("logits",), EngineSettings(library="onnx", precision="int8")).max_rows == 1


def test_a_model_that_answers_otherwise_once_it_is_exported_is_refused(family, monkeypatch):
    """A traced graph knows only the branches that the traced batch took."""
    import torch
    from transformers.models.bert.modeling_bert import BertPooler

    def branch(self: BertPooler, states: torch.Tensor) -> torch.Tensor:
        pooled = self.activation(self.dense(states[:, 0]))
        return pooled if states.shape[1] <= 16 else -pooled

    monkeypatch.setattr(BertPooler, "forward", branch)
    with pytest.raises(NotExportable, match="ONNX Runtime gives other logits than torch for 3 windows of 24 tokens"):
        export_fp32(family("bert", CLASSES), CLASSES, ("logits",), LENGTH)


def test_more_threads_give_the_same_answers(family):
    directory = family("bert", CLASSES)
    export_fp32(directory, CLASSES, ("logits",), LENGTH)
    engine = load_engine(directory, CLASSES, ("logits",), FP32["onnx"])
    before = engine.forward(batch_of(7, 90))["logits"]
    engine.limit_threads(2)
    np.testing.assert_allclose(engine.forward(batch_of(7, 90))["logits"], before, atol=1e-5)


def test_a_version_without_the_files_of_the_engine_says_what_serves_it(tmp_path):
    with pytest.raises(CorruptVersion, match=r"has no model\.int8\.onnx, which serving\.engine and .* demand"):
        load_engine(tmp_path, CLASSES, ("logits",), EngineSettings(library="onnx", precision="int8"))


def test_a_damaged_file_is_a_corrupt_version(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CorruptVersion, match="does not load in ONNX Runtime"):
        load_engine(tmp_path, CLASSES, ("logits",), FP32["onnx"])


@pytest.mark.parametrize("windows", [[], [batch_of(length) for length in (5, 20, 60)]], ids=["dynamic", "fixed"])
def test_in_int8_a_text_gets_the_same_scores_whatever_stands_beside_it(tiny_base, tmp_path, windows):
    labels = ("billing", "bug", "shipping")
    directory = save_classifier(tiny_base, labels, tmp_path / "classifier")
    export_fp32(directory, CLASSES, ("logits",), LENGTH)
    export_int8(directory)
    if windows:
        fix_scales(directory / FILES["int8"], windows)
    manifest = Manifest(
        model="m",
        task="classification",
        labels=labels,
        max_length=LENGTH,
        base_model="tiny",
        dataset={},
        training={},
        metrics={},
        code_version="0",
        engine=EngineChoice(library="onnx", precision="int8"),
    )
    predictor = Predictor.load(directory, manifest, ServingSettings())
    assert predictor.engine.max_rows == (None if windows else 1)
    texts = [
        TextInput(text=text) for text in ("refund the invoice", "crash", "a parcel that never came " * 9, "a refund, please")
    ]
    together = predictor.predict(texts)
    predictor.overhead_tokens = 1000  # all texts in one pass, if several may share one
    for answers in (predictor.predict(texts[::-1])[::-1], [predictor.predict([text])[0] for text in texts]):
        for answer, other in zip(answers, together, strict=True):
            assert answer.labels == other.labels
            assert answer.scores == pytest.approx(other.scores, abs=1e-5)
