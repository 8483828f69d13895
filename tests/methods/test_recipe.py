"""The recipe: what the settings leave out is chosen by the task, the base model and the rows, and what they give is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from baton.config.model_settings import ModelSettings
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
    assert found.reason == f"from a probe; {epochs} epochs at a learning rate of {training.learning_rate:g}"


def test_few_rows_get_a_probe_only():
    found = recipe("classification", intents(20, FEW // 20))
    assert (found.training.few_shot, found.reason) == (True, f"a probe only, for {FEW} rows")
    assert recipe("classification", intents(20, FEW // 20 + 1)).training.few_shot is False
    assert recipe("classification", intents(20, FEW // 20), few_shot=False).training.start_from == "probe"


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
    rows = [example(text=f"text {number}", label=[f"label {number % 3}"]) for number in range(120)]
    assert recipe("multi_label", rows).training.validation is None


@pytest.mark.parametrize(("rows", "epochs"), [(10, MAX_EPOCHS["base"]), (1280, 10), (6400, EPOCHS), (10**5, EPOCHS)])
def test_few_rows_are_passed_over_more_often(rows, epochs):
    assert recipe("ner", people(1) * rows).training.epochs == epochs


@pytest.mark.parametrize(
    ("config", "scale"),
    [({"hidden_size": 768}, 0.25), ({"dim": 768}, 0.25), ({"hidden_size": 1024}, 0.140625), ({"hidden_size": 32}, 2), ({}, 1)],
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
    assert choose(settings_of(**once.model_dump()), intents(20, 5), {"model_type": "mpnet"}).training == once
