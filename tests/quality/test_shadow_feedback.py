"""Feedback on a shadow: pairs of answers to the same requests, each judged by the correction of the request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baton.quality.shadow_feedback import shadow_feedback
from baton.quality.trials import TrialFeedback
from baton.store.records import ModelVersion
from baton.tasks.ner_entities import Entity
from baton.tasks.qa import Answer
from tests.quality.test_live import NOON, Model, choice


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path, "classification", ("a", "b"))


def feedback(model: Model, champion: ModelVersion, shadow: ModelVersion, **limits: Any) -> TrialFeedback:
    arguments = {"window": 100, "since": None, **limits}
    return shadow_feedback(model.registry, model.settings, shadow, champion, **arguments)


def person(*places: tuple[int, int]) -> Any:
    """An answer of a NER model in «Clara sings»."""
    words = ["B-PER" if word in places else "O" for word in ((0, 5), (6, 11))]
    found = tuple(Entity(label="PER", score=0.9, start=start, end=end, word="Clara sings"[start:end]) for start, end in places)
    return {"entities": found, "word_labels": tuple(words), "word_scores": (0.9, 0.9)}


SAID = Answer(answer="Clara", score=0.9, start=0, end=5)
OTHER = Answer(answer="sings", score=0.9, start=6, end=11)

TASKS: dict[str, tuple[str, tuple[str, ...], Any, Any, Any]] = {
    "classification": (
        "classification",
        ("a", "b"),
        {"text": "Clara sings", "label": "a"},
        {"labels": ("a", "b"), "scores": (0.9, 0.1)},
        {"labels": ("b", "a"), "scores": (0.9, 0.1)},
    ),
    "pairs": (
        "classification",
        ("a", "b"),
        {"text": "Clara sings", "text_pair": "Clara is silent", "label": "a"},
        {"labels": ("a", "b"), "scores": (0.9, 0.1)},
        {"labels": ("b", "a"), "scores": (0.9, 0.1)},
    ),
    "multi_label": (
        "multi_label",
        ("a", "b"),
        {"text": "Clara sings", "label": ["a", "b"]},
        {"labels": ("a", "b"), "scores": (0.9, 0.8), "assigned": (True, True)},
        {"labels": ("a", "b"), "scores": (0.9, 0.2), "assigned": (True, False)},
    ),
    "ner": (
        "ner",
        ("O", "B-PER", "I-PER"),
        {"text": "Clara sings", "entities": [{"start": 0, "end": 5, "label": "PER"}]},
        person((0, 5)),
        person((0, 5), (6, 11)),
    ),
    "qa": (
        "qa",
        (),
        {"question": "Who?", "context": "Clara sings", "answers": {"text": ["Clara"], "answer_start": [0]}},
        {"answers": (SAID,)},
        {"answers": (OTHER,)},
    ),
}
"""Of each kind of task: its name, labels, a row with the right answer, an output that is right, and one that is not wholly."""


@pytest.mark.parametrize("kind", TASKS)
def test_in_every_task_a_pair_counts_against_the_version_that_alone_is_wrong(tmp_path, kind):
    task, labels, row, right, wrong = TASKS[kind]
    model = Model(tmp_path, task, labels)
    champion, shadow = model.version(), model.version()
    good, bad = model.task.Output.model_validate(right), model.task.Output.model_validate(wrong)
    answers = [(good, bad)] * 3 + [(bad, good)] + [(bad, bad)] * 2 + [(good, good)] * 2
    for said, copied in answers:
        model.answer(champion, said, row, redact=["Clara"], shadow=(shadow, copied))
    found = feedback(model, champion, shadow)
    assert (found.wrong, found.champion_wrong, found.pairs, found.champion_errors) == (3, 1, 8, 3)
    assert found.f1 == model.live_of([copied for _, copied in answers], row)
    assert found.champion_f1 == model.live(champion).f1
    assert 0 < found.f1 < found.champion_f1 < 1


def test_without_corrected_pairs_nothing_is_known_and_nothing_speaks_against_it(model):
    champion, shadow = model.version(), model.version()
    model.answer(champion, choice(model, "b"), {"text": "hello", "label": "a"})
    assert feedback(model, champion, shadow) == TrialFeedback(pairs=0)


def test_a_pair_of_which_one_answer_cannot_be_scored_counts_for_neither(model):
    champion, shadow = model.version(), model.version()
    model.answer(champion, None, {"text": "hello", "label": "a"}, shadow=(shadow, choice(model, "b")))
    model.answer(champion, choice(model, "b"), {"text": "hello", "label": "a"}, shadow=(shadow, None))
    model.answer(champion, choice(model, "b"), {"text": "hello", "label": "a"}, shadow=(shadow, choice(model, "b")))
    model.correct("r3", {"text": "another text", "label": "a"})
    assert feedback(model, champion, shadow) == TrialFeedback(pairs=0)
    model.correct("r3", {"text": "hello", "label": "a"})
    assert feedback(model, champion, shadow).pairs == 1


def test_a_label_that_only_one_version_knows_is_a_mistake_of_the_other(model):
    champion, shadow = model.version(), model.version(("a", "b", "new"))
    model.answer(champion, choice(model, "a"), {"text": "hello", "label": "new"}, shadow=(shadow, choice(model, "new")))
    found = feedback(model, champion, shadow)
    assert (found.wrong, found.champion_wrong, found.f1, found.champion_f1) == (0, 1, 1.0, 0.0)


def test_only_the_newest_corrections_and_answers_of_this_trial_count(model):
    champion, shadow = model.version(), model.version()
    for said in "bba":  # a second after the other, from noon on
        model.answer(champion, choice(model, "a"), {"text": "hello", "label": "a"}, shadow=(shadow, choice(model, said)))
    assert feedback(model, champion, shadow).wrong == 2
    assert feedback(model, champion, shadow, window=2).wrong == 1
    assert feedback(model, champion, shadow, since=NOON.replace(second=1)).wrong == 1
    assert feedback(model, champion, shadow, since=NOON.replace(second=3)) == TrialFeedback(pairs=0)
