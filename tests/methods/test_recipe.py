"""The recipe: what the settings leave out is chosen by the task, the base model and the rows, and what they give is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from baton.config.model_settings import ModelSettings
from baton.errors import ConfigError
from baton.tasks import task_type
from training.methods.recipe import EPOCHS, FEW, FITTED, MAX_EPOCHS, PLAIN, RATES, SMOOTHING, Recipe, choose

MINILM = {"model_type": "bert", "hidden_size": 384}


def settings_of(task: str = "classification", **training: Any) -> ModelSettings:
    return ModelSettings.model_validate({"name": "m", "task": task, "data": {"train": "x.jsonl"}, "training": training})


def intents(labels: int, rows: int) -> list[Any]:
    example = task_type("classification").Example
    return [example(text=f"text {number}", label=f"label {number % labels}") for number in range(labels * rows)]


def people(rows: int) -> list[Any]:
    row = {"text": "Ada Lovelace called.", "entities": [{"start": 0, "end": 12, "label": "PER"}]}
    return [task_type("ner").Example.model_validate(row)] * rows


def recipe(task: str, rows: Sequence[Any], base: dict[str, Any] = MINILM, **training: Any) -> Recipe:
    return choose(settings_of(task, **training), rows, base)


@pytest.mark.parametrize(
    ("rows", "epochs", "factor"),
    [(FEW + 20, MAX_EPOCHS["probe"], FITTED), (1600, 6, FITTED), (4800, EPOCHS, 1), (20_000, EPOCHS, 1)],
)
def test_texts_are_classified_by_fine_tuning_from_a_probe_without_validation_rows(rows, epochs, factor):
    found = recipe("classification", intents(20, rows // 20))
    training = found.training
    assert (training.few_shot, training.start_from) == (False, "probe")
    assert (training.epochs, training.learning_rate) == (epochs, RATES["full"] * factor)
    assert (training.validation, training.label_smoothing) == (0.0, SMOOTHING)
    assert found.reason == (
        f"from a probe; {epochs} epochs over {rows // 20 * 20:,} rows at a learning rate of {training.learning_rate:g}, "
        "label smoothing 0.1, no validation rows"
    )


def test_few_rows_get_a_probe_only():
    found = recipe("classification", intents(20, FEW // 20))
    assert (found.training.few_shot, found.reason) == (True, f"a probe only, for {FEW} rows")
    assert recipe("classification", intents(20, FEW // 20 + 1)).training.few_shot is False


@pytest.mark.parametrize(
    "given",
    [
        {"few_shot": False},
        {"start_from": "probe"},
        {"epochs": 5},
        {"learning_rate": 1e-5},
        {"validation": 0.1},
        {"augment": {"swap": 0.1}},
        {"workers": 2},
        {"prune": {"layers": 1}},
        {"distil": {}},
    ],
)
def test_few_rows_are_fine_tuned_if_something_is_set_that_only_fine_tuning_has_a_use_for(given):
    training = recipe("classification", intents(20, FEW // 20), **given).training
    assert (training.few_shot, training.start_from) == (False, "probe")
    assert settings_of(**training.model_dump()).training == training, "it is allowed"


@pytest.mark.parametrize("given", [{"nodes": {"pool": "training"}}, {"device": "gpu"}])
def test_where_training_has_nodes_of_its_own_the_driver_fits_no_probe(given):
    found = recipe("classification", intents(20, 5), **given)
    assert (found.training.few_shot, found.training.start_from) == (False, "base")
    assert "training has a place of its own" in found.reason


def test_a_probe_that_is_not_possible_is_refused():
    with pytest.raises(ConfigError, match="probe is not possible with mpnet models"):
        recipe("classification", intents(20, 50), {"model_type": "mpnet"}, start_from="probe")


def test_whoever_sets_epochs_keeps_early_stopping_and_gets_a_rate_for_as_many():
    many = intents(20, 500)
    assert recipe("classification", many).training.learning_rate == RATES["full"]
    longer = recipe("classification", many, epochs=10).training
    assert (longer.learning_rate, longer.validation) == (RATES["full"] * FITTED, None)


def test_a_task_of_ones_own_with_another_class_of_models_gets_no_probe(monkeypatch):
    monkeypatch.setattr(task_type("classification"), "auto_model", "AutoModelForMultipleChoice")
    found = recipe("classification", intents(20, 100))
    assert (found.training.start_from, "not for models of this task" in found.reason) == ("base", True)


def test_tasks_and_models_without_a_probe_start_from_the_base_model_and_say_why():
    ner = recipe("ner", people(50))
    assert (ner.training.start_from, ner.training.learning_rate, ner.training.validation) == ("base", RATES["full"], 0.0)
    assert ner.reason.startswith("from the base model;")
    other = recipe("classification", intents(2, 400), {"model_type": "mpnet", "hidden_size": 384})
    assert (other.training.start_from, "no probe is known for the family mpnet" in other.reason) == ("base", True)
    lora = recipe("classification", intents(2, 400), tune="lora")
    assert (lora.training.start_from, lora.training.learning_rate) == ("base", RATES["lora"])
    assert "tune is lora" in lora.reason


def test_a_task_that_learns_thresholds_keeps_its_validation_rows():
    example = task_type("multi_label").Example
    rows = [example(text=f"text {number}", label=[f"label {number % 3}"]) for number in range(FEW + 1)]
    found = recipe("multi_label", rows).training
    assert (found.start_from, found.validation, found.label_smoothing) == ("probe", None, 0.0)


@pytest.mark.parametrize(("rows", "epochs"), [(10, MAX_EPOCHS["base"]), (1280, 10), (6400, EPOCHS), (10**5, EPOCHS)])
def test_few_rows_are_passed_over_more_often(rows, epochs):
    assert recipe("ner", people(1) * rows).training.epochs == epochs


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"hidden_size": 768}, 0.25),
        ({"dim": 768}, 0.25),
        ({"n_embd": 768}, 0.25),
        ({"hidden_size": 1024}, 0.140625),
        ({"hidden_size": 32}, 2),
        ({}, 1),
    ],
)
def test_the_rate_falls_with_the_square_of_the_hidden_size(config, scale):
    found = recipe("ner", people(50), {"model_type": "bert", **config})
    assert found.training.learning_rate == pytest.approx(RATES["full"] * scale)


def test_what_users_give_is_kept():
    given = {"start_from": "base", "epochs": 7, "learning_rate": 3e-4, "validation": 0.2, "label_smoothing": 0.0}
    found = recipe("classification", intents(20, 100), **given)
    assert found.training == settings_of(**given, few_shot=False).training


def test_from_the_champion_few_passes_at_half_the_rate_and_validation_rows():
    champion = recipe("classification", intents(20, 5), start_from="champion").training
    assert (champion.start_from, champion.few_shot, champion.validation) == ("champion", False, None)
    assert (champion.epochs, champion.learning_rate) == (EPOCHS, RATES["full"] * FITTED)


@pytest.mark.parametrize(
    "given",
    [
        {"method": "fine_tune"},
        {"folds": 3},
        {"search": {"space": {"seed": [1, 2]}}},
        {"few_shot": True},
    ],
)
def test_plain_values_are_used_for_plain_fine_tuning_and_beside_other_methods(given):
    found = recipe("classification", intents(20, 100), **given)
    assert found.training == settings_of(**{**PLAIN, **given}).training
    assert found.reason == "as set"


def test_a_setting_with_everything_chosen_is_chosen_again_without_a_change():
    once = recipe("classification", intents(20, 100)).training
    assert choose(settings_of(**once.model_dump()), intents(20, 5), {"model_type": "bert"}).training == once


def test_a_model_that_writes_starts_from_its_base_and_takes_more_steps():
    rows = [task_type("seq2seq").Example(source=f"text {number}", target="a text") for number in range(3200)]
    found = recipe("seq2seq", rows, {"model_type": "t5", "d_model": 768})
    assert (found.training.start_from, found.training.epochs, found.training.few_shot) == ("base", 10, False)
    assert found.training.learning_rate == RATES["full"] / 4
    assert (found.training.label_smoothing, found.training.validation) == (0.0, 0.0)
