"""Answers that a replica keeps: for exactly the same request and version, and no more than it may."""

from __future__ import annotations

from baton.tasks.classification import Classification
from baton.tasks.text_classifier import TextInput
from services.replica.answer_cache import LARGEST, LONGEST, AnswerCache
from services.replica.batching import Prediction

DEFAULT = Classification.Options()
BEST = Classification.Options(top_k=1)


def inputs(*texts: str) -> list[TextInput]:
    return [TextInput(text=text) for text in texts]


def put(cache: AnswerCache, *texts: str, version: int = 1) -> Prediction:
    """Keep an answer that has the texts as its outputs."""
    prediction = Prediction(outputs=list(texts), version=version, queue_ms=1.5, inference_ms=2.5)
    cache.put(inputs(*texts), [DEFAULT] * len(texts), prediction)
    return prediction


def get(cache: AnswerCache, *texts: str, version: int = 1, options: Classification.Options = DEFAULT) -> Prediction | None:
    return cache.get(version, inputs(*texts), [options] * len(texts))


def test_an_answer_is_kept_for_the_same_inputs_in_the_same_order_with_the_same_options_and_version():
    cache = AnswerCache(10)
    put(cache, "a", "b")
    assert get(cache, "a", "b") == Prediction(outputs=["a", "b"], version=1, queue_ms=0.0, inference_ms=0.0)
    others = [get(cache, "b", "a"), get(cache, "a"), get(cache, "A", "b"), get(cache, "a", "b", version=2)]
    assert [*others, get(cache, "a", "b", options=BEST), cache.get(None, inputs("a", "b"), [DEFAULT] * 2)] == [None] * 6


def test_the_answers_that_were_asked_for_last_are_kept_and_no_more_inputs_than_allowed():
    cache = AnswerCache(4)
    for texts in ("a", "b", "cd"):
        put(cache, *texts)
    put(cache, "a")  # computed twice at the same time
    assert get(cache, "a") is not None
    put(cache, "e")
    assert [get(cache, *texts) is not None for texts in ("a", "b", "cd", "e")] == [True, False, True, True]
    put(cache, *"fghi")
    assert [get(cache, *texts) is not None for texts in ("a", "cd", "e", "fghi")] == [False, False, False, True]
    put(cache, *"jklmn")
    assert get(cache, *"jklmn") is None


def test_large_requests_are_not_kept():
    cache = AnswerCache(10_000)
    put(cache, *["a"] * LARGEST)
    put(cache, *["b"] * (LARGEST + 1))
    put(cache, "x" * LONGEST)
    put(cache, "y" * (LONGEST + 1))
    kept = [get(cache, *["a"] * LARGEST), get(cache, "x" * LONGEST)]
    assert None not in kept
    assert [get(cache, *["b"] * (LARGEST + 1)), get(cache, "y" * (LONGEST + 1))] == [None, None]


def test_without_room_nothing_is_kept():
    cache = AnswerCache(0)
    put(cache, "a")
    assert get(cache, "a") is None
