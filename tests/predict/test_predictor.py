"""The predictor: what is evaluated is what is served, and it is what transformers would answer."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from baton.artifacts.manifest import EngineChoice, Manifest
from baton.config.serving_settings import ServingSettings
from baton.engines import Batch, Logits
from baton.engines.torch_engine import load_model
from baton.errors import ConfigError, CorruptVersion, NotFinite, NotFound
from baton.predict.predictor import Predictor, engine_settings, load_tokenizer, reads_padding
from baton.tasks.classification import Classification
from baton.tasks.text_classifier import ClassificationOptions, LabelScores, TextInput
from tests.support.tiny import keyword_rows, save_classifier

LABELS = ("billing", "bug", "shipping", "cancel")
FP32 = ServingSettings(precision="fp32", device="cpu")
SCRIPTS = (
    "refund the invoice, PLEASE!",
    "日本語の漢字と中文",
    "한국 한국",
    "привет",
    "שלום \u202eשלום\u202c",
    "مرحبا",
    "😀🎉👩‍👩‍👧‍👦",
    "cafe\u0301 naïve Å\u030a",
    "tab\tnew\nline\r\nend",
    "a\u00a0b\u2003c\u200bd",
    "x" * 120,
    "100% @home #tag $5.00 <b>&amp;</b>",
    "[CLS] [SEP] [PAD] [MASK]",
    "\x00\x01 control",
    "ﬁ ½ Ⅷ ß İ",
)


def varied_texts(count: int = 100) -> list[str]:
    source = random.Random(0)
    texts = list(SCRIPTS)
    while len(texts) < count:
        texts.append(" ".join(source.choice(SCRIPTS) for _ in range(source.randint(1, 12))))
    return texts


def inputs(texts: list[str]) -> list[TextInput]:
    return [TextInput(text=text) for text in texts]


def by_label(output: LabelScores) -> list[float]:
    return [dict(zip(output.labels, output.scores, strict=True))[label] for label in LABELS]


def manifest(max_length: int = 128, **changes: object) -> Manifest:
    fields = {"model": "m", "task": "classification", "labels": LABELS, "base_model": "tiny", "code_version": "0"}
    return Manifest(max_length=max_length, dataset={}, training={}, metrics={}, **{**fields, **changes})


class CountingEngine:
    """An engine without torch: its logits are how often certain token ids occur. Notes the shapes that it is given."""

    description = "counting"
    overhead_tokens = 64
    length_step = 8
    max_rows = None

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def forward(self, batch: Batch) -> Logits:
        assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["token_type_ids"].shape
        self.shapes.append(batch["input_ids"].shape)
        seen = batch["input_ids"] * batch["attention_mask"]
        return {
            "logits": np.stack(
                [(seen % 7 == rest).mean(axis=1) * seen.shape[1] for rest in (1, 2, 3, 4)], axis=1, dtype=np.float32
            )
        }


@pytest.fixture(scope="module")
def directory(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier saved by transformers; read it, do not change it."""
    return save_classifier(tiny_base, LABELS, tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def predictor(directory: Path) -> Predictor:
    return Predictor.load(directory, manifest(), FP32)


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    """A classifier that a test may damage."""
    return Path(shutil.copytree(directory, tmp_path / "copy"))


def counting(
    base: Path, budget: int = 16384, max_length: int = 128, *, padded: bool = True
) -> tuple[Predictor, CountingEngine]:
    tokenizer, pad_id = load_tokenizer(base)
    engine = CountingEngine()
    task = Classification(LABELS, max_length)
    parts = {"task": task, "tokenizer": tokenizer, "pad_id": pad_id, "engine": engine}
    return Predictor(**parts, max_batch_tokens=budget, padded=padded), engine


# --- the same answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["none", "softmax", "sigmoid"])
def test_answers_are_those_of_the_transformers_pipeline(predictor, directory, function):
    from transformers import pipeline

    reference = pipeline("text-classification", model=str(directory), tokenizer=str(directory), top_k=None, device="cpu")
    texts = varied_texts()
    theirs = reference(texts, truncation=True, max_length=128, function_to_apply=function)
    ours = predictor.predict(inputs(texts), [ClassificationOptions(function_to_apply=function)] * len(texts))
    for text, expected, output in zip(texts, theirs, ours, strict=True):
        scores = {row["label"]: row["score"] for row in expected}
        assert by_label(output) == pytest.approx([scores[label] for label in LABELS], abs=1e-4), text


def test_the_texts_of_that_comparison_are_answered_differently(predictor):
    answers = {tuple(round(score, 3) for score in by_label(output)) for output in predictor.predict(inputs(varied_texts()))}
    assert len(answers) > 80


def test_a_text_alone_is_answered_as_in_a_large_mixed_batch(predictor):
    texts = inputs(varied_texts())
    together = predictor.predict(texts)
    for text, expected in zip(texts, together, strict=True):
        [alone] = predictor.predict([text])
        assert by_label(alone) == pytest.approx(by_label(expected), abs=1e-5)


def test_the_same_text_twice_gets_the_same_answer(predictor):
    first, second = predictor.predict([TextInput(text="where is my parcel?")] * 2)
    assert first == second
    assert predictor.predict([TextInput(text="where is my parcel?")]) == predictor.predict(
        [TextInput(text="where is my parcel?")]
    )


def test_bf16_answers_are_close_to_fp32_answers(predictor, directory):
    coarse = Predictor.load(directory, manifest(), ServingSettings(precision="bf16", device="cpu"))
    assert coarse.engine.description == "torch cpu bf16"
    texts = inputs([row["text"] for row in keyword_rows(50, LABELS, seed=1)])
    for expected, output in zip(predictor.predict(texts), coarse.predict(texts), strict=True):
        assert by_label(output) == pytest.approx(by_label(expected), abs=0.05)


def test_no_inputs_give_no_outputs(predictor):
    assert predictor.predict([]) == []


def test_each_input_is_answered_with_its_own_options(predictor):
    options = [ClassificationOptions(top_k=count) for count in (1, 4, 2)]
    outputs = predictor.predict(inputs(["short", "a much longer text about an invoice", "mid size"]), options)
    assert [len(output.labels) for output in outputs] == [1, 4, 2]


# --- batches -------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), budget=st.integers(8, 600))
def test_a_batch_stays_within_the_token_budget_unless_one_window_is_longer(tiny_base, lengths, budget):
    predictor, engine = counting(tiny_base, budget)
    predictor.predict(inputs(["invoice " * length for length in lengths]))
    assert sum(rows for rows, _ in engine.shapes) == len(lengths)
    for rows, width in engine.shapes:
        assert rows * width <= budget or rows == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.sampled_from(varied_texts(60)), min_size=1, max_size=30), budget=st.integers(8, 600))
def test_answers_come_in_the_order_of_the_inputs_whatever_the_batches(tiny_base, texts, budget):
    predictor, _ = counting(tiny_base, budget)
    together = predictor.predict(inputs(texts))
    for text, expected in zip(texts, together, strict=True):
        [alone] = predictor.predict(inputs([text]))
        assert by_label(alone) == pytest.approx(by_label(expected), abs=1e-5)


def test_short_texts_are_not_padded_to_the_longest(tiny_base):
    predictor, engine = counting(tiny_base, budget=256)
    predictor.predict(inputs(["invoice " * 100, *["invoice"] * 30]))
    assert engine.shapes[0] == (1, 104)
    assert {width for _, width in engine.shapes[1:]} == {8}


def test_one_budget_full_of_short_texts_is_one_forward_pass(tiny_base):
    predictor, engine = counting(tiny_base, budget=800)
    predictor.predict(inputs(["invoice"] * 100))
    assert engine.shapes == [(100, 8)]


# --- long texts ----------------------------------------------------------------------------------------------------------


def test_a_text_is_cut_at_max_length_special_tokens_included(tiny_base):
    predictor, engine = counting(tiny_base, max_length=32)
    first, second = predictor.predict(inputs(["invoice " * 30 + tail for tail in ("parcel " * 9, "crash " * 500)]))
    assert engine.shapes == [(2, 32)]
    assert first == second


def test_a_text_just_short_enough_is_not_cut(tiny_base):
    predictor, _ = counting(tiny_base, max_length=32)
    first, second = predictor.predict(inputs(["invoice " * 29 + tail for tail in ("parcel", "crash")]))
    assert first != second


def test_a_long_text_is_answered_by_the_real_model(predictor):
    [cut] = predictor.predict(inputs(["invoice " * 5000]))
    [whole] = predictor.predict(inputs(["invoice " * 126]))
    assert by_label(cut) == pytest.approx(by_label(whole), abs=1e-5)


def test_padding_never_goes_beyond_max_length(tiny_base):
    predictor, engine = counting(tiny_base, max_length=30)
    predictor.predict(inputs(["invoice " * 100, "invoice " * 26, "invoice"]))
    assert max(width for _, width in engine.shapes) == 30


# --- self-check ----------------------------------------------------------------------------------------------------------


def test_a_version_passes_its_own_probes_after_a_round_trip_through_json(predictor, directory):
    probed = manifest(probes=predictor.probe())
    read = Manifest.from_bytes(probed.to_bytes(), "here")
    assert len(read.probes) == len(predictor.task.samples()) > 1
    Predictor.load(directory, read, FP32).check(read.probes)


def test_a_version_whose_scores_a_temperature_sharpens_is_compared_by_its_plain_ones(predictor, directory):
    """Two processors differ a little: divided by a temperature of 0.2, a little would be too much."""
    probes = predictor.probe()
    sharp = Predictor.load(directory, manifest(temperature=0.2), FP32)
    sharp.check(probes)
    assert sharp.probe() == probes
    assert sharp.task.temperature == 0.2


def test_a_version_with_other_weights_fails_the_probes(predictor, copy):
    weights = load_file(copy / "model.safetensors")
    weights["classifier.weight"] = -weights["classifier.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CorruptVersion, match=r"self-check failed: scores for .* differ by .* \(allowed: 0.02\); engine torch cpu fp32"
    ):
        Predictor.load(copy, manifest(), FP32).check(predictor.probe())


def test_a_version_with_swapped_labels_fails_the_probes(predictor, directory):
    swapped = manifest(labels=LABELS[::-1])
    with pytest.raises(CorruptVersion, match="self-check failed"):
        Predictor.load(directory, swapped, FP32).check(predictor.probe())


def test_a_version_that_answers_nan_fails_the_probes(predictor, copy):
    weights = load_file(copy / "model.safetensors")
    weights["classifier.bias"][:] = np.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotFinite, match="the model's logits are not numbers"):
        Predictor.load(copy, manifest(), FP32).check(predictor.probe())


def test_warming_up_runs_short_and_long_batches(tiny_base):
    predictor, engine = counting(tiny_base)
    predictor.warm()
    assert len(set(engine.shapes)) >= 3


# --- files that do not make a model --------------------------------------------------------------------------------------


def drop_head(path: Path) -> None:
    weights = load_file(path)
    save_file({name: value for name, value in weights.items() if "classifier" not in name}, path, metadata={"format": "pt"})


def wrong_shape(path: Path) -> None:
    weights = load_file(path)
    weights["bert.pooler.dense.weight"] = np.zeros((3, 3), dtype=np.float32)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", Path.unlink),
        ("model.safetensors", lambda path: path.write_bytes(b"not safetensors")),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        ("model.safetensors", wrong_shape),
        ("model.safetensors", drop_head),
        ("config.json", lambda path: path.write_text("{")),
        ("config.json", lambda path: path.write_text('{"model_type": "no such architecture"}')),
        ("config.json", Path.unlink),
        ("tokenizer.json", lambda path: path.write_text("{")),
        ("tokenizer.json", Path.unlink),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", "damage"),
)
def test_files_that_do_not_load_are_a_corrupt_version_that_names_the_directory(copy, name, damage: Callable[[Path], object]):
    damage(copy / name)
    with pytest.raises(CorruptVersion, match=str(copy)):
        Predictor.load(copy, manifest(), FP32)


def test_a_manifest_with_an_unknown_task_is_refused(directory):
    with pytest.raises(NotFound, match="unknown task 'poetry'"):
        Predictor.load(directory, manifest(task="poetry"), FP32)


def test_asking_for_a_gpu_that_is_not_there_says_what_is_allowed(directory):
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is visible")
    with pytest.raises(
        ConfigError, match="device: 'gpu' is configured, but no GPU is visible to this process; allowed here: auto, cpu"
    ):
        Predictor.load(directory, manifest(), ServingSettings(device="gpu"))


@pytest.mark.parametrize(
    ("serving", "choice", "expected"),
    [
        ({}, {}, ("torch", "auto")),
        ({}, {"library": "onnx", "precision": "int8"}, ("onnx", "int8")),
        ({"precision": "fp32"}, {"library": "onnx", "precision": "int8"}, ("onnx", "fp32")),
        ({"precision": "int8"}, {"library": "onnx", "precision": "fp32"}, ("onnx", "int8")),
        ({"precision": "bf16"}, {"library": "onnx", "precision": "int8"}, ("torch", "bf16")),
        ({"engine": "torch"}, {"library": "onnx", "precision": "int8"}, ("torch", "auto")),
        ({"engine": "torch"}, {"library": "torch", "precision": "bf16"}, ("torch", "bf16")),
        ({"engine": "onnx"}, {}, ("onnx", "auto")),
        ({"gpus": 1}, {"library": "onnx", "precision": "int8"}, ("torch", "auto")),
        ({"device": "cpu", "gpus": 1}, {"library": "onnx", "precision": "int8"}, ("onnx", "int8")),
    ],
)
def test_the_engine_is_the_versions_own_unless_the_settings_name_another(serving, choice, expected):
    settings = engine_settings(ServingSettings(**serving), EngineChoice(**choice))
    assert (settings.library, settings.precision) == expected


def test_a_model_that_reads_padding_gets_none(directory, tiny_base, copy):
    config = json.loads((directory / "config.json").read_text())
    assert not reads_padding(directory)
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "convbert"}))
    assert reads_padding(copy)
    predictor, engine = counting(tiny_base, padded=False)
    predictor.predict(inputs(["refund", "refund the invoice", "invoice", "please refund the invoice today"]))
    assert sorted(engine.shapes) == [(1, 5), (1, 7), (2, 3)]


# --- other engines -------------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
sys.modules["transformers"] = None
import json
from pathlib import Path
import numpy as np
from baton.predict.predictor import Predictor, load_tokenizer
from baton.tasks.classification import Classification
from baton.tasks.text_classifier import TextInput

class Lengths:
    description = "lengths"
    overhead_tokens = 64
    length_step = 8
    max_rows = None
    def forward(self, batch):
        return {"logits": np.stack([batch["attention_mask"].sum(axis=1), np.full(len(batch["input_ids"]), 9)], axis=1)}

tokenizer, pad_id = load_tokenizer(Path(sys.argv[1]))
task = Classification(("long", "short"), 32)
predictor = Predictor(task=task, tokenizer=tokenizer, pad_id=pad_id, engine=Lengths(), max_batch_tokens=64)
print(json.dumps([output.label for output in predictor.predict([TextInput(text=t) for t in ("invoice", "invoice " * 20)])]))
"""


def test_the_predictor_works_with_another_engine_where_torch_cannot_be_imported(tiny_base):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, str(tiny_base)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["short", "long"]


def test_models_that_load_at_the_same_time_keep_their_weights_tied(tiny_base):
    """transformers takes `tie_weights` away while it loads: two loads at once could leave it away for good."""
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(load_model, "AutoModel", tiny_base) for _ in range(12)]:
            done.result()
    model = load_model("AutoModelForMaskedLM", tiny_base, ())
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
