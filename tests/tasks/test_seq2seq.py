"""Text to text: what rows hold, what requests may ask for, and how answers are scored."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from baton.errors import InvalidInput
from baton.generation import Generation
from baton.tasks.seq2seq import Seq2Seq, Seq2SeqExample, Seq2SeqOptions, WrittenText
from baton.tasks.seq2seq_rows import SourceInput
from services.replica.protocols.dialect import read_options
from tests.support.writers import character_tokenizer


@pytest.fixture
def task() -> Seq2Seq:
    made = Seq2Seq((), 16)
    made.generation = Generation(max_new_tokens=20, num_beams=2)
    return made


def bounds(task: Seq2Seq, parameters: object) -> tuple[int, int]:
    options = read_options(parameters, Seq2Seq)
    [found] = task.encode(task.prepare_tokenizer(character_tokenizer()), [SourceInput(source="a")], [options]).generations
    assert task.copies(options) == found.num_beams
    return found.max_new_tokens, found.num_beams


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ("Hello", ("Hello",)),
        (["Hello", "Hi", "Hello"], ("Hello", "Hi")),
        ('["Hello", "Hi"]', ('["Hello", "Hi"]',)),  # what a model is to write may be JSON
        ("[see above]", ("[see above]",)),
        ('{"a": 1}', ('{"a": 1}',)),
    ],
)
def test_a_target_is_a_text_or_a_list_of_texts(value, target):
    assert Seq2SeqExample(source="x", target=value).target == target


@pytest.mark.parametrize("value", [[], "", " ", ["a", ""], 7, ["a", 7], None])
def test_a_target_without_a_text_is_refused(value):
    with pytest.raises(ValidationError):
        Seq2SeqExample(source="x", target=value)


def test_a_request_may_ask_for_less_and_for_other_beams_in_two_places(task):
    assert bounds(task, None) == (20, 2)
    assert bounds(task, {"max_new_tokens": 5}) == (5, 2)
    assert bounds(task, {"max_new_tokens": 500, "num_beams": 4}) == (20, 4)
    assert bounds(task, {"generate_parameters": {"max_new_tokens": 5, "num_beams": 1}}) == (5, 1)
    assert bounds(task, {"generate_parameters": {"max_new_tokens": 5}, "max_new_tokens": 6, "num_beams": None}) == (6, 2)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"max_new_tokens": 0}, "parameters.max_new_tokens: 0 is not allowed; at least 1"),
        ({"max_new_tokens": 1025}, "1025 is not allowed; at most 1024"),
        ({"num_beams": 17}, "parameters.num_beams: 17 is not allowed; at most 16"),
        ({"generate_parameters": {"do_sample": True}}, "parameters.generate_parameters.do_sample: unknown"),
        ({"explain": True}, "parameters.explain: unknown; parameters: max_new_tokens, num_beams, generate_parameters"),
    ],
)
def test_what_a_request_may_not_ask_for_is_told(parameters, told):
    with pytest.raises(InvalidInput) as refused:
        read_options(parameters, Seq2Seq)
    assert told in str(refused.value)


def test_a_long_source_is_cut_and_still_ends(task):
    tokenizer = task.prepare_tokenizer(character_tokenizer())
    [ids] = task.encode(tokenizer, [SourceInput(source="abc" * 2000)], [Seq2SeqOptions()]).ids
    assert len(ids) == 16
    assert ids == tokenizer.encode("abc" * 5).ids


def test_the_score_is_the_mean_of_the_rows_and_each_row_is_right_by_itself(task):
    examples = [Seq2SeqExample(source="x", target=target) for target in ("1976-07-04", ["no", "1999-12-25"], "a b")]
    outputs = [WrittenText(text=text) for text in ("1976-07-04", "1999-12-26", "a  b")]
    score = task.score(outputs, examples)
    metric = task.measure(score.metrics, score.statistics)
    assert metric.right.tolist() == [True, False, True]
    assert score.metrics["exact_match"] == pytest.approx(2 / 3)
    assert score.metrics["f1"] == metric.value() == pytest.approx(np.mean(metric.numerators))
    assert 2 / 3 < score.metrics["f1"] < 1


def test_answers_differ_by_how_unlike_they_are_and_agree_only_if_they_are_one():
    task = Seq2Seq((), 16)
    one, near, far, none = (WrittenText(text=text) for text in ("1976-07-04", "1976-07-05", "no", ""))
    assert task.difference(one, one) == task.difference(none, none) == 0
    assert 0 < task.difference(one, near) < task.difference(one, far) == task.difference(one, none) == 1
    assert (task.agree(one, one), task.agree(one, near)) == (True, False)
    assert [task.summary(it, Seq2SeqOptions()) for it in (one, none)] == [("text", None), ("no text", None)]
    assert task.confidences(one, Seq2SeqOptions()) == ()
