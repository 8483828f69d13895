"""The words that a report names for the answers to changed texts, by a real model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from baton.predict.predictor import Predictor
from baton.tasks.classification import Classification
from baton.text.masks import masker
from tests.predict.test_explaining import TEXT as SENTENCE
from tests.predict.test_explaining import predictors
from tests.support.tiny import save_classifier
from tests.support.world import LABELS, World
from training import matches
from training.judge.excerpts import ELLIPSIS
from training.judge.reasons import PLACES, SECONDS, WORDS, reasons

pytestmark = pytest.mark.usefixtures("one_thread")

__all__ = ["predictors"]  # a fixture

MASK = masker([r"\S+@\S+"])
TEXT = "write to anna@example.com that the invoice of May is wrong"


@pytest.fixture(scope="module")
def world(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tiny_base, tmp_path_factory.mktemp("world"), rows=60)


@pytest.fixture(scope="module")
def predictor(world: World) -> Predictor:
    return world.predictor(save_classifier(world.base, LABELS, world.directory / "version"))


def items(*texts: str) -> list[Any]:
    return [Classification.from_wire(text) for text in texts]


def test_the_words_with_the_largest_attributions_are_named_in_the_order_of_the_text_and_masked(predictor: Predictor):
    [[(of, found)]] = reasons(predictor, items(TEXT), MASK)
    assert of == "", "the answer as a whole"
    [output] = predictor.predict(items(TEXT), [Classification.Options(explain=True)])
    assert output.explanation is not None
    largest = sorted(output.explanation.parts, key=lambda part: -abs(part.score))[:WORDS]
    masked = MASK(items(TEXT)[0]).text
    assert "anna" not in masked
    assert sorted(found) == sorted((masked[part.start : part.end], round(part.score, 4)) for part in largest)
    places = [masked.index(word) for word, _ in found]
    assert places == sorted(places)


def test_what_cannot_be_explained_has_no_words_and_hinders_nothing(predictor: Predictor):
    pair = Classification.from_wire({"text": "the invoice", "text_pair": "is wrong"})
    long = " ".join(["invoice"] * 2 * predictor.task.max_length)
    without, cut, plain = reasons(predictor, [pair, *items(long, "the invoice is wrong")], MASK)
    assert (without, len(plain[0][1])) == ([], 4)
    assert all(word.startswith("invoice invoice") and (len(word) < 40 or word.endswith(ELLIPSIS)) for word, _ in cut[0][1])


@pytest.mark.parametrize("predictors", ["ner"], indirect=True)
def test_the_words_of_the_least_certain_entities_are_named(predictors: list[Predictor]):
    task = predictors[1].task
    [found] = reasons(predictors[1], [task.from_wire(SENTENCE)], MASK)
    [output] = predictors[1].predict([task.from_wire(SENTENCE)])
    doubtful = sorted(output.entities, key=lambda entity: entity.score)[:PLACES]
    assert len(doubtful) > 1
    assert [of for of, _ in found] == [f"{it.word} {it.label}" for it in doubtful]
    assert all(len(words) == WORDS for _, words in found)


def test_no_text_is_explained_after_the_time_is_over(predictor: Predictor):
    ticks = itertools.count(0, SECONDS * 0.4)
    found = reasons(predictor, items(*["the invoice is wrong"] * 4), MASK, now=lambda: next(ticks))
    assert [bool(words) for words in found] == [True, True, False, False]


def test_the_report_of_a_match_names_the_words_of_both_versions(world: World):
    world.registry.declare_model("m", world.settings().model_dump(mode="json"))
    world.make_champion(world.publish(save_classifier(world.base, LABELS, world.directory / "champion")))
    other = save_classifier(world.base, LABELS, world.directory / "candidate")
    weights = load_file(other / "model.safetensors")
    save_file(weights | {"classifier.weight": -weights["classifier.weight"]}, other / "model.safetensors")
    decision = matches.judge(world.settings(), world.publish(other).number, world.registry, world.storage)
    report = json.loads(world.storage.read_report(decision.numbers["report"]))
    assert report["changed"]
    for one in report["changed"]:
        for [[of, words]] in one["reasons"].values():
            assert of == ""
            assert 1 <= len(words) <= WORDS
            assert all(word in one["text"] and isinstance(score, float) for word, score in words)
        assert one["reasons"]["answer"] != one["reasons"]["champion_answer"], "they answer for other reasons"
