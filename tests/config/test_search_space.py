"""What a search tries: values of its space and no others, all different, the same for the same seed."""

from __future__ import annotations

import pytest

from baton.config.file import trial_settings, validate
from baton.config.model_settings import ModelSettings
from baton.config.search_space import SearchSettings, sample_settings
from baton.config.training_settings import TrainingSettings
from baton.errors import ConfigError
from training.methods.search import Trial

MODEL = {"name": "m", "task": "classification", "data": {"train": "rows.jsonl"}}
SPACE = {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "batch_size": [8, 16], "epochs": {"low": 1, "high": 3}}
WHOLE = TrainingSettings.whole_keys()


def space_of(space: object, **training: object) -> ModelSettings:
    return validate(ModelSettings, {**MODEL, "training": {"search": {"space": space}, **training}}, source="test")


def complaint(space: object, **training: object) -> str:
    with pytest.raises(ConfigError) as caught:
        space_of(space, **training)
    return str(caught.value)


def test_every_trial_lies_in_the_space_and_no_two_are_alike():
    trials = sample_settings(SearchSettings(trials=60, space=SPACE), WHOLE, 0)
    assert len(trials) == 60
    assert len({tuple(trial.items()) for trial in trials}) == 60
    for trial in trials:
        assert 1e-5 <= trial["learning_rate"] <= 1e-3
        assert trial["batch_size"] in (8, 16)
        assert trial["epochs"] in (1, 2, 3)
        assert isinstance(trial["epochs"], int)
    assert {trial["epochs"] for trial in trials} == {1, 2, 3}


def test_a_logarithmic_range_gives_each_order_of_magnitude_its_share():
    trials = sample_settings(SearchSettings(trials=400, space=SPACE), WHOLE, 0)
    below = sum(trial["learning_rate"] < 1e-4 for trial in trials)
    assert 150 < below < 250  # half the orders of magnitude, a tenth of the range


def test_the_seed_decides_what_is_tried():
    search = SearchSettings(trials=5, space=SPACE)
    assert sample_settings(search, WHOLE, 1) == sample_settings(search, WHOLE, 1)
    assert sample_settings(search, WHOLE, 1) != sample_settings(search, WHOLE, 2)


def test_a_small_space_is_tried_whole_and_once():
    trials = sample_settings(SearchSettings(trials=50, space={"batch_size": [8, 16], "tune": ["full", "head"]}), WHOLE, 0)
    assert sorted((trial["batch_size"], trial["tune"]) for trial in trials) == [
        (8, "full"),
        (8, "head"),
        (16, "full"),
        (16, "head"),
    ]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "training.search.space: Dictionary should have at least 1 item"),
        (5, "training.search.space: 5 is not allowed; give a mapping from keys of `training`"),
        ({"learning_rate": []}, "learning_rate: the list is empty; give at least one value"),
        ({"learning_rate": 1e-3}, "learning_rate: 0.001 is not allowed; give a list of values, or {low, high, log}"),
        ({"learning_rate": {"low": 1e-3, "high": 1e-4}}, "learning_rate: low (0.001) must be below high (0.0001)"),
        ({"learning_rate": {"low": 1e-3, "high": 1e-3}}, "learning_rate: low (0.001) must be below high (0.001)"),
        ({"weight_decay": {"low": 0, "high": 1, "log": True}}, "weight_decay: with log: true, low must be above 0, not 0"),
        ({"learning_rate": {"low": 1e-5}}, "learning_rate: high: missing"),
        ({"learning_rate": {"low": 1e-5, "high": 1e-3, "step": 2}}, "step: unknown key; allowed: low, high, log"),
        ({"learning_rat": [1e-3]}, "search.space: unknown key 'learning_rat'; did you mean 'learning_rate'? allowed: "),
        ({"learning_rate": [1e-3, 2.0]}, "search.space.learning_rate: 2.0 is not allowed; below 1"),
        ({"epochs": {"low": 0, "high": 3}}, "search.space.epochs: 0 is not allowed; "),
        ({"epochs": {"low": 1.5, "high": 3}}, "search.space.epochs: 1.5 is not allowed; "),
        ({"tune": ["full", "half"]}, "search.space.tune: 'half' is not allowed; input should be 'full', "),
        ({"validation": [0.1, 0.2]}, "search.space: validation cannot be searched; allowed: "),
        ({"folds": [3]}, "search.space: folds cannot be searched; allowed: "),
    ],
)
def test_a_mistake_in_the_space_is_told_with_its_key_and_what_is_allowed(space, said):
    assert said in complaint(space)


def test_a_space_survives_being_dumped():
    settings = space_of(SPACE)
    assert ModelSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"few_shot": True, "folds": 3}, "few_shot and folds exclude each other; keep one of them"),
        ({"few_shot": True, "distil": {}}, "few_shot has no use for a teacher; keep distil or few_shot"),
        ({"prune": {}}, "prune: it removes nothing; set layers, units or both"),
        ({"folds": 3, "search": {"space": SPACE}}, "folds and search exclude each other; keep one of them"),
        ({"few_shot": True, "search": {"space": SPACE}}, "few_shot and search exclude each other; keep one of them"),
        ({"folds": 3, "workers": 2}, "folds trains in processes of one worker each; set workers to 1, not 2"),
        ({"folds": 3, "validation": 0.2}, "folds validates on every row once; leave validation (0.2) out"),
        ({"few_shot": True, "start_from": "champion"}, "the champion has seen them; set start_from: base"),
        ({"folds": 3, "start_from": "champion"}, "the champion has seen them; set start_from: base"),
        ({"adapt": {"data": "a.txt"}, "start_from": "champion"}, "adapt changes the base model, and start_from: champion"),
        ({"folds": 1}, "training.folds: 1 is not allowed; at least 2"),
        ({"folds": 21}, "training.folds: 21 is not allowed; at most 20"),
        (
            {"adapt": {"data": "a.csv"}},
            "training.adapt.data: 'a.csv' is not allowed; give a .txt file with one text per line, or a .jsonl",
        ),
        ({"adapt": {"data": "a.txt", "mask": 0}}, "training.adapt.mask: 0 is not allowed; "),
        ({"adapt": {"data": "a.txt", "batch_size": 3}, "workers": 2}, "adapt.batch_size 3 must be a multiple of workers (2)"),
    ],
)
def test_what_does_not_go_together_is_refused_with_a_sentence(training, said):
    with pytest.raises(ConfigError) as caught:
        validate(ModelSettings, {**MODEL, "training": training}, source="test")
    assert said in str(caught.value)


@pytest.mark.parametrize("task", ["ner", "qa", "seq2seq"])
def test_few_shot_is_refused_for_tasks_that_do_not_classify_whole_texts(task):
    with pytest.raises(
        ConfigError, match=f"few_shot: it classifies whole texts, and {task} does not; allowed for classification and multi"
    ):
        validate(ModelSettings, {**MODEL, "task": task, "training": {"few_shot": True}}, source="test")


def test_a_trial_trains_with_its_own_settings_and_searches_no_further():
    settings = space_of(SPACE, seed=7)
    mine = trial_settings(settings.model_dump(mode="json"), {"learning_rate": 2e-4, "batch_size": 16, "epochs": 2})
    assert mine.training == TrainingSettings(learning_rate=2e-4, batch_size=16, epochs=2, seed=7)


def test_settings_that_do_not_go_together_are_the_trials_own_mistake():
    settings = space_of({"stride": [4, 60], "max_length": [64, 128]})
    with pytest.raises(ConfigError, match="stride: 60 is not allowed; at most 32, half of max_length"):
        trial_settings(settings.model_dump(mode="json"), {"stride": 60, "max_length": 64})


@pytest.mark.parametrize(
    ("trial", "told"),
    [
        (
            Trial(settings={}, scores=[0.2, 0.7, 0.6], ended=True),
            {"state": "finished", "f1": 0.7, "best_epoch": 2, "epochs": 3},
        ),
        (Trial(settings={}, scores=[0.2]), {"state": "stopped", "f1": 0.2, "best_epoch": 1, "epochs": 1}),
        (Trial(settings={}, reason="no"), {"state": "failed", "f1": 0.0, "best_epoch": None, "epochs": 0, "reason": "no"}),
    ],
)
def test_the_lineage_says_what_became_of_a_trial(trial, told):
    assert trial.facts() == {"settings": {}, **told}
