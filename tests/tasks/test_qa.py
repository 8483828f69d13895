"""The question-answering task: what it accepts, how windows become answers, and that no better answer was there."""

from __future__ import annotations

import json
import math
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from baton.config.base_models import find_base_model
from baton.engines import EngineSettings, load_engine
from baton.engines.torch_engine import load_model
from baton.errors import CorruptVersion, DataError, InvalidInput
from baton.predict.predictor import Predictor, load_tokenizer
from baton.tasks import task_type
from baton.tasks.qa import Answer, Answers, QaOptions, QuestionAnswering
from baton.tasks.qa_rows import QaExample, QaInput, References
from baton.tasks.rows import Row
from baton.tasks.windows import Windows, without_truncation
from baton.text.answers import f1
from training.data.sources import parse
from training.data.splits import split_rows

CONTEXT = "Your order left Lisbon on Monday at 10:45 and reached Porto, where Clara Müller signed for it."
LONG = " ".join(f"On day {day} the courier carried parcel {7 * day} to house {day + 30}." for day in range(1, 60))
QUESTION = "Where did it go?"

with_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def bundled() -> Tokenizer:
    """The WordPiece tokenizer of a real model."""
    return without_truncation(load_tokenizer(find_base_model("sentence-transformers/all-MiniLM-L6-v2"))[0])


@pytest.fixture(scope="module")
def tiny(tiny_base: Path) -> Tokenizer:
    """A WordPiece tokenizer with few words, and so with many pieces of words and unknown ones."""
    return without_truncation(load_tokenizer(tiny_base)[0])


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    """One token a byte, as in GPT-2 and RoBERTa: many of them may share a character, and spaces belong to what follows."""
    vocabulary = {piece: number for number, piece in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=False)
    return tokenizer


@pytest.fixture(scope="module")
def metaspace() -> Tokenizer:
    """One token a character, and as in SentencePiece a word is what stands between spaces, a Chinese sentence, say."""
    pieces = ["<s>", "</s>", "?", "▁", *"abcdefghijklmnopqrstuvwxyzLP.", *"他住在北京上海서울은"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def example(context: str = CONTEXT, question: str = QUESTION, **answers: int) -> QaExample:
    """An example with these answers, given as text=start; a start of -1 is looked up."""
    places = {text: context.index(text) if start < 0 else start for text, start in answers.items()}
    return QaExample(question=question, context=context, answers={"text": [*places], "answer_start": [*places.values()]})


def answered(context: str, *texts: str, question: str = QUESTION) -> QaExample:
    return example(context, question, **dict.fromkeys(texts, -1))


def encode(task: QuestionAnswering, tokenizer: Tokenizer, context: str, question: str = QUESTION, **options: Any) -> Windows:
    return task.encode(tokenizer, [QaInput(question=question, context=context)], [QaOptions(**options)])


def noise(windows: Windows, seed: int = 0, scale: float = 3.0) -> dict[str, list[NDArray[np.float32]]]:
    """Logits of all tokens, padded a little as in a batch."""
    source = np.random.default_rng(seed)
    return {
        head: [source.normal(0, scale, len(ids) + 3).astype(np.float32) for ids in windows.ids]
        for head in QuestionAnswering.heads
    }


def pointing(windows: Windows, *wishes: tuple[int, int, float], null: float = 0.0) -> dict[str, list[NDArray[np.float32]]]:
    """Logits that are 0 but at the tokens which begin and finish spans of characters; ``null`` on both heads of [CLS]."""
    logits = {head: [np.zeros(len(ids), dtype=np.float32) for ids in windows.ids] for head in QuestionAnswering.heads}
    for window, encoding in enumerate(windows.encodings):
        for position, (side, (begin, finish)) in enumerate(zip(encoding.sequence_ids, encoding.offsets, strict=True)):
            for start, end, value in wishes:
                logits["start_logits"][window][position] += value * (side == 1 and begin == start)
                logits["end_logits"][window][position] += value * (side == 1 and finish == end)
        for head in logits.values():
            head[window][0] = null
    return logits


def decode(windows: Windows, logits: dict[str, Any], task: QuestionAnswering | None = None, **options: Any) -> Answers:
    [output] = (task or QuestionAnswering((), 384)).decode(windows, logits, [QaOptions(**options)])
    return output


def tidy(context: str, begin: int, finish: int) -> tuple[int, int]:
    """A span without white space around it, and with the combining marks that follow it."""
    while begin < finish and context[begin].isspace():
        begin += 1
    while begin < finish and context[finish - 1].isspace():
        finish -= 1
    while begin < finish < len(context) and unicodedata.category(context[finish]).startswith("M"):
        finish += 1
    return begin, finish


def answer(text: str, score: float, start: int = 0) -> Answer:
    return Answer(answer=text, score=score, start=start, end=start + len(text))


def output(text: str, score: float = 0.5, margin: float = -1.0, start: int = 0) -> Answers:
    one = answer(text, score, start)
    return Answers(answers=(one,), best=one, margin=margin)


# --- the task ------------------------------------------------------------------------------------------------------------


def test_the_task_is_found_by_its_name_and_reads_384_tokens_sharing_128():
    assert task_type("qa") is QuestionAnswering
    assert QuestionAnswering.default_max_length == 384
    assert QuestionAnswering((), 384).stride == 128
    assert QuestionAnswering((), 384, stride=0).stride == 0


# --- rows ----------------------------------------------------------------------------------------------------------------

START = CONTEXT.index("Porto")
COLUMNS = {"text": ["Porto", "Porto,"], "answer_start": [START, START]}
OBJECTS = [{"text": "Porto", "answer_start": START}, {"text": "Porto,", "answer_start": START, "answer_id": 7}]


@pytest.mark.parametrize("answers", [COLUMNS, OBJECTS])
def test_both_shapes_of_squad_are_read_alike(answers):
    read = QaExample(question=QUESTION, context=CONTEXT, answers=answers)
    assert read.answers == References(text=("Porto", "Porto,"), answer_start=(START, START))


@pytest.mark.parametrize("answers", [COLUMNS, OBJECTS, [], {"text": [], "answer_start": []}])
@pytest.mark.parametrize("more", [{}, {"id": "q1", "is_impossible": False}, {"id": 7}])
def test_an_example_is_read_back_from_its_own_json(answers, more):
    row = QaExample(question="Où? 😀", context=CONTEXT, answers=answers, **more)
    text = row.model_dump_json(exclude_none=True)
    assert QaExample.model_validate_json(text) == row
    assert QaExample.model_validate_json(text).model_dump_json(exclude_none=True) == text


@pytest.mark.parametrize("more", [{}, {"is_impossible": True}, {"is_impossible": False}, {"is_impossible": None}])
@pytest.mark.parametrize("answers", [[], {"text": [], "answer_start": []}])
def test_a_row_without_answers_says_that_there_is_none(answers, more):
    assert QaExample(question=QUESTION, context=CONTEXT, answers=answers, **more).answers.text == ()


def test_starts_count_characters_whatever_their_bytes():
    assert answered("😀 naïve 北京 Porto", "Porto").answers.answer_start == (11,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": {"text": ["Porto"], "answer_start": [3]}}, r"has 'r ord' at character 3, not 'Porto'; it has that text"),
        ({"answers": {"text": ["Paris"], "answer_start": [3]}}, r"not 'Paris'; it does not contain that text"),
        ({"answers": {"text": ["Porto"], "answer_start": [5000]}}, r"5000 of 'Porto' is outside the context, which has \d+ "),
        ({"answers": {"text": ["it."], "answer_start": [-3]}}, r"-3 of 'it.' is outside .*; it has that text at character 91"),
        ({"answers": {"text": ["Porto, x"], "answer_start": [START]}}, r"has 'Porto, w' at character \d+, not 'Porto, x'"),
        ({"answers": {"text": [CONTEXT * 2], "answer_start": [0]}}, r"'Your order .{45}… at character 0, not 'Your .{45}"),
        ({"answers": {"text": ["Porto"], "answer_start": []}}, r"1 text, but 0 answer_starts; each text needs one"),
        ({"answers": {"text": ["Porto"], "answer_start": [54.0]}}, r"'answers.answer_start\[0\]': 54.0: .*valid integer"),
        ({"answers": {"text": ["Porto"], "answer_start": ["54"]}}, r"'answers.answer_start\[0\]': '54': .*valid integer"),
        ({"answers": {"text": ["Porto"], "answer_start": [True]}}, r"'answers.answer_start\[0\]': True: .*valid integer"),
        ({"answers": {"text": [5], "answer_start": [54]}}, r"field 'answers.text\[0\]': 5: .*valid string"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "answers.text is empty; send at least one character"),
        ({"answers": {"text": ["Porto"]}}, "field 'answers.answer_start': .*Field required"),
        ({"answers": "Porto"}, r"'answers': 'Porto': allowed: {.text.: \[…\], .answer_start.: \[…\]}, or"),
        ({"answers": None}, "field 'answers': None: allowed: "),
        ({"answers": [{"text": "Porto"}]}, "field 'answers': .*: allowed: "),
        ({"answers": COLUMNS, "is_impossible": True}, "is_impossible is true, but answers has 'Porto'; leave one of them out"),
        ({"question": " "}, "field 'question': ' ': question is empty"),
        ({"context": ""}, "field 'context': '': context is empty"),
        ({"context": "Porto \ud800"}, "context holds a lone surrogate at character 6"),
        ({"is_impossible": "perhaps"}, "field 'is_impossible': 'perhaps': .*valid boolean"),
    ],
)  # fmt: skip
def test_broken_rows_are_refused_with_what_is_wrong(changes, message):
    values = {"question": QUESTION, "context": CONTEXT, "answers": {"text": [], "answer_start": []}, **changes}
    with pytest.raises(DataError, match=f"train.jsonl line 3.*{message}"):
        parse(QuestionAnswering, {}, [Row(where="train.jsonl line 3", values=values)], "train.jsonl")


def test_rows_may_name_their_columns_otherwise_and_carry_more():
    values = {"q": QUESTION, "passage": CONTEXT, "answers": COLUMNS, "id": "a", "title": "Porto"}
    [row] = parse(QuestionAnswering, {"question": "q", "context": "passage"}, [Row(where="here", values=values)], "here")
    assert (row.question, row.context, row.id) == (QUESTION, CONTEXT, "a")


def test_training_without_any_answer_is_refused():
    with pytest.raises(DataError, match="qa needs at least one answer in the training data; it has none"):
        QuestionAnswering.labels_of([answered(CONTEXT)] * 3)
    assert QuestionAnswering.labels_of([answered(CONTEXT), answered(CONTEXT, "Porto")]) == ()


def test_any_row_can_be_scored():
    QuestionAnswering((), 8).check([answered(CONTEXT), answered(CONTEXT, "Porto")])


def test_the_questions_about_one_context_stay_on_one_side_of_a_split():
    contexts = [f"{CONTEXT} Parcel {number}." for number in range(40)]
    rows = [answered(context, "Porto", question=f"Question {number}?") for context in contexts for number in range(4)]
    train, holdout = split_rows(QuestionAnswering, rows, 0.3)
    assert len(train) + len(holdout) == len(rows)
    assert not {row.context for row in train} & {row.context for row in holdout}
    assert 0.1 < len(holdout) / len(rows) < 0.5


def test_rows_are_repetitions_only_when_question_and_context_are_the_same():
    rows = [answered(CONTEXT, question="Who?"), answered(CONTEXT, question="Where?"), answered(LONG, question="Who?")]
    assert len({QuestionAnswering.content(row) for row in rows}) == 3
    assert QuestionAnswering((), 8).input_of(rows[0]) == QaInput(question="Who?", context=CONTEXT)


# --- wire ----------------------------------------------------------------------------------------------------------------


def test_a_question_with_its_context_is_accepted():
    expected = QaInput(question=QUESTION, context=CONTEXT)
    assert QuestionAnswering.from_wire({"question": QUESTION, "context": CONTEXT}) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Where?", 'inputs: expected an object {"question", "context"}, not str \\(\'Where\\?\'\\)'),
        (None, "inputs: .* not NoneType"),
        (["Where?", "There."], "inputs: .* not list"),
        ({"question": "Where?"}, "inputs.context: missing; allowed: question, context"),
        ({"context": "There."}, "inputs.question: missing; allowed: question, context"),
        ({"question": 5, "context": "There."}, "inputs.question: 5 is not allowed; input should be a valid string"),
        (
            {"question": "Where?", "context": ["There."]},
            "inputs.context: \\['There.'\\] is not allowed; input should be a valid string",
        ),
        ({"question": "", "context": "There."}, "inputs.question: question is empty; send at least one character"),
        ({"question": "Where?", "context": " \n"}, "inputs.context: context is empty"),
        ({"question": "\udfff", "context": "There."}, "inputs.question: question holds a lone surrogate at character 0"),
        (
            {"question": "Where?", "context": "There.", "lang": "en"},
            "inputs.lang: unknown; allowed: question, context",
        ),
    ],
)
def test_other_inputs_are_refused_with_what_is_allowed(value, message):
    with pytest.raises(InvalidInput, match=message):
        QuestionAnswering.from_wire(value)


def test_one_answer_is_an_object_and_more_are_a_list():
    best = {"answer": "Porto", "score": 0.5, "start": 54, "end": 59}
    assert QuestionAnswering.to_wire(output("Porto", start=54)) == best
    assert QuestionAnswering.to_wire(output("Porto", start=54).model_copy(update={"many": True})) == [best]


def test_null_stands_for_each_default():
    nothing = dict.fromkeys(QaOptions.model_fields)
    assert QaOptions(**nothing) == QaOptions()
    assert QaOptions().model_dump() == {
        "top_k": 1,
        "doc_stride": None,
        "max_answer_len": 15,
        "max_seq_len": None,
        "max_question_len": 64,
        "handle_impossible_answer": None,
        "align_to_words": True,
    }


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_k": 0},
        {"top_k": 1001},
        {"top_k": "many"},
        {"doc_stride": -1},
        {"max_answer_len": 0},
        {"max_seq_len": 7},
        {"max_question_len": 0},
        {"handle_impossible_answer": "perhaps"},
        {"topk": 3},
        {"padding": "longest"},
    ],
)
def test_parameters_out_of_bounds_are_refused(parameters):
    [name] = parameters
    with pytest.raises(ValidationError, match=name):
        QaOptions.model_validate(parameters)


# --- windows -------------------------------------------------------------------------------------------------------------


def context_tokens(windows: Windows) -> list[list[tuple[int, int]]]:
    """Offsets of the context's tokens of each window."""
    return [
        [offsets for side, offsets in zip(encoding.sequence_ids, encoding.offsets, strict=True) if side == 1]
        for encoding in windows.encodings
    ]


def test_a_text_that_fits_is_one_window_as_the_tokenizer_makes_it(bundled):
    windows = encode(QuestionAnswering((), 384), bundled, CONTEXT)
    expected = bundled.encode(QUESTION, CONTEXT)
    assert (windows.ids, windows.type_ids) == ([expected.ids], [expected.type_ids])
    assert windows.encodings[0].offsets == expected.offsets
    assert list(windows.owner) == [0]


@pytest.mark.parametrize("stride", [0, 7, 16])
def test_neighbouring_windows_share_the_stride_and_all_follow_the_question(bundled, stride):
    windows = encode(QuestionAnswering((), 64, stride=stride), bundled, LONG)
    everything = bundled.encode(LONG, add_special_tokens=False)
    limit = 64 - 3 - len(bundled.encode(QUESTION, add_special_tokens=False))
    parts = context_tokens(windows)
    assert len(parts) > 5
    for number, part in enumerate(parts):
        first = number * (limit - stride)
        assert part == everything.offsets[first : first + limit]
    assert parts[-1][-1] == everything.offsets[-1]
    assert len({tuple(ids[: 64 - limit - 1]) for ids in windows.ids}) == 1
    assert [len(ids) for ids in windows.ids[:-1]] == [64] * (len(parts) - 1)


def test_no_window_carries_others(bundled):
    windows = encode(QuestionAnswering((), 64), bundled, LONG, LONG)
    assert not any(encoding.overflowing for encoding in windows.encodings)


def test_each_input_has_its_own_options_and_windows(bundled):
    inputs = [QaInput(question=QUESTION, context=text) for text in (CONTEXT, LONG, LONG)]
    options = [QaOptions(), QaOptions(max_seq_len=32, doc_stride=4), QaOptions()]
    task = QuestionAnswering((), 128)
    windows = task.encode(bundled, inputs, options)
    for item, choice, mine in zip(inputs, options, windows.ranges_by_input(), strict=True):
        alone = task.encode(bundled, [item], [choice])
        assert [windows.ids[window] for window in mine] == alone.ids
    assert [len(mine) for mine in windows.ranges_by_input()] == [1, 36, 9]


def test_a_long_question_is_cut_to_what_the_options_say_and_to_half_of_the_window(bundled):
    question = "why " * 500

    def asked(max_length: int, **options: int) -> int:
        [encoding] = encode(QuestionAnswering((), max_length), bundled, "Because.", question, **options).encodings
        return encoding.ids.index(bundled.token_to_id("[SEP]")) - 1

    assert asked(384) == 64
    assert asked(384, max_question_len=10) == 10
    assert asked(384, max_question_len=300) == (384 - 3) // 2
    assert asked(64) == (64 - 3) // 2


def test_windows_are_no_longer_than_the_model_takes_whatever_is_asked(bundled):
    windows = encode(QuestionAnswering((), 64), bundled, LONG, max_seq_len=10_000)
    assert max(map(len, windows.ids)) == 64
    assert max(map(len, encode(QuestionAnswering((), 64), bundled, LONG, max_seq_len=20).ids)) == 20


def test_a_stride_as_wide_as_the_window_still_gets_through_the_text(bundled):
    windows = encode(QuestionAnswering((), 64), bundled, LONG, doc_stride=10_000)
    tokens = len(bundled.encode(LONG, add_special_tokens=False))
    assert context_tokens(windows)[-1][-1][1] == len(LONG)
    assert sum(map(len, context_tokens(windows))) < 2.2 * tokens


@given(number=st.integers(1, 60), max_length=st.sampled_from([32, 64, 384]))
def test_the_estimate_of_tokens_is_near_their_number(bundled, number, max_length):
    context = " ".join(LONG.split(". ")[:number])
    task = QuestionAnswering((), max_length)
    estimate = task.estimate_tokens(QaInput(question=QUESTION, context=context))
    real = sum(map(len, encode(task, bundled, context).ids))
    assert 0.5 * real < estimate < 3 * real


def test_samples_are_one_short_and_one_longer_than_a_window(bundled):
    for max_length in (8, 32, 128, 384, 512):
        task = QuestionAnswering((), max_length)
        counts = [len(task.encode(bundled, [sample], [QaOptions()])) for sample in task.samples()]
        assert counts[1] > 1
        assert counts[0] == 1 or max_length < 32


# --- targets -------------------------------------------------------------------------------------------------------------


def test_targets_are_the_first_and_last_token_of_the_first_reference(bundled):
    row = answered(CONTEXT, "Clara Müller", "Porto")
    task = QuestionAnswering((), 384)
    windows = encode(task, bundled, CONTEXT)
    [[first, last]] = task.targets([row], windows)
    tokens = windows.encodings[0]
    assert (tokens.tokens[first], tokens.tokens[last]) == ("clara", "muller")


def test_a_window_without_the_whole_answer_points_at_its_first_token(bundled):
    text = "parcel 70 to house 40"
    task = QuestionAnswering((), 40, stride=10)
    windows = encode(task, bundled, LONG)
    row = answered(LONG, text)
    start, end = LONG.index(text), LONG.index(text) + len(text)
    held = 0
    for target, encoding, part in zip(task.targets([row], windows), windows.encodings, context_tokens(windows), strict=True):
        if part[0][0] <= start and end <= part[-1][1]:
            held += 1
            assert LONG[encoding.offsets[target[0]][0] : encoding.offsets[target[1]][1]] == text
        else:
            assert target == [0, 0]
    assert 1 <= held < len(windows)


def test_a_row_without_an_answer_points_at_the_first_token_everywhere(bundled):
    task = QuestionAnswering((), 64)
    windows = encode(task, bundled, LONG)
    assert task.targets([answered(LONG)], windows) == [[0, 0]] * len(windows)


def test_targets_of_many_rows_come_window_by_window(bundled):
    rows = [answered(LONG, "house 31"), answered(CONTEXT), answered(CONTEXT, "Porto")]
    task = QuestionAnswering((), 64)
    windows = task.encode(bundled, [task.input_of(row) for row in rows], [QaOptions()] * 3)
    each = [task.targets([row], encode(task, bundled, row.context)) for row in rows]
    assert task.targets(rows, windows) == [target for mine in each for target in mine]


@pytest.mark.parametrize(
    ("context", "text", "expected"),
    [
        ("It cost $45.50 there", "45", "45"),
        ("It cost $45.50 there", " $45.50 ", "$45.50"),
        ("an understanding", "stand", "understanding"),
        ("他住在北京上海", "北京", "北京"),
        ("e\u0301te\u0301 naïve", "te", "e\u0301te\u0301"),
        ("x\u200b\u200b Porto", "\u200b Porto", "Porto"),
        ("😀 emoji", "😀", "😀"),
    ],
)
def test_an_answer_that_cuts_tokens_is_learned_as_the_tokens_that_it_touches(bundled, context, text, expected):
    task = QuestionAnswering((), 64)
    windows = encode(task, bundled, context)
    [[first, last]] = task.targets([answered(context, text)], windows)
    offsets = windows.encodings[0].offsets
    begin, finish = tidy(context, offsets[first][0], offsets[last][1])
    assert context[begin:finish] == expected


CHARACTERS = "abc Portö.,-’ \n\t\u00a0\u200b北京상하日本กไ😀👩‍👩‍👧e\u0301İßﬁ½אב"
CONTEXTS = st.one_of(
    st.text(CHARACTERS, min_size=1, max_size=60),
    st.text(min_size=1, max_size=40),
    st.lists(st.sampled_from(["Porto", "order 10:45", "北京", "wonderful", "it's", "[SEP]", " "]), min_size=1).map(" ".join),
).filter(str.strip)
SIZES = st.sampled_from([8, 9, 12, 16, 24, 64])
STRIDES = st.sampled_from([None, 0, 1, 3, 100])


@with_fixtures
@given(
    data=st.data(),
    context=CONTEXTS,
    max_length=SIZES,
    stride=STRIDES,
    name=st.sampled_from(["tiny", "byte_level", "metaspace"]),
)
def test_logits_that_say_the_targets_give_the_answer_back(request, data, context, max_length, stride, name):
    start = data.draw(st.integers(0, len(context) - 1))
    text = context[start : data.draw(st.integers(start + 1, len(context)))]
    assume(text.strip())
    row = QaExample(question="why", context=context, answers={"text": [text], "answer_start": [start]})
    task = QuestionAnswering((), max_length, stride=stride)
    windows = encode(task, request.getfixturevalue(name), context, "why")
    targets = task.targets([row], windows)
    assume(any(target != [0, 0] for target in targets))
    logits = {
        head: [100 * np.eye(len(ids), dtype=np.float32)[target[side]] for ids, target in zip(windows.ids, targets, strict=True)]
        for side, head in enumerate(task.heads)
    }
    found = decode(windows, logits, task, max_answer_len=1000, align_to_words=False).top
    parts = {tidy(context, *offsets) for part in context_tokens(windows) for offsets in part}
    touched = [(begin, finish) for begin, finish in parts if begin < finish and begin < start + len(text) and finish > start]
    assert (found.start, found.end) == (min(touched)[0], max(finish for _, finish in touched))


# --- answers -------------------------------------------------------------------------------------------------------------


def published(
    context: str, windows: Windows, logits: dict[str, Any], *, longest: int, null: bool, threshold: float = 0.0
) -> dict[tuple[int, int], float]:
    """The score of every span by the formula, all pairs of positions in all windows, one after the other."""
    starts, ends = (logits[head] for head in QuestionAnswering.heads)
    places = [
        (window, position)
        for window, encoding in enumerate(windows.encodings)
        for position, side in enumerate(encoding.sequence_ids)
        if side == 1
    ]
    empty = min(range(len(windows)), key=lambda window: float(starts[window][0]) + float(ends[window][0]))
    start_sum = sum(np.exp(float(starts[window][position])) for window, position in places)
    end_sum = sum(np.exp(float(ends[window][position])) for window, position in places)
    scores: dict[tuple[int, int], float] = {}
    if null:
        empty_start, empty_end = (np.exp(float(head[empty][0]) - threshold / 2) for head in (starts, ends))
        start_sum, end_sum = start_sum + empty_start, end_sum + empty_end
        scores[0, 0] = empty_start / start_sum * empty_end / end_sum
    for window, first in places:
        for other, last in places:
            if other == window and first <= last < first + longest:
                offsets = windows.encodings[window].offsets
                begin, finish = tidy(context, offsets[first][0], offsets[last][1])
                if begin < finish:
                    score = np.exp(float(starts[window][first])) / start_sum * np.exp(float(ends[window][last])) / end_sum
                    scores[begin, finish] = max(scores.get((begin, finish), 0.0), score)
    return scores


@with_fixtures
@given(
    context=CONTEXTS,
    question=st.text(min_size=1, max_size=30).filter(str.strip),
    max_length=SIZES,
    stride=STRIDES,
    seed=st.integers(0, 2**32),
    longest=st.sampled_from([1, 2, 5, 15, 1000]),
    count=st.sampled_from([1, 2, 5, 1000]),
    null=st.booleans(),
    name=st.sampled_from(["tiny", "byte_level", "metaspace"]),
)
def test_answers_are_those_of_the_published_formula_over_all_spans_of_all_windows(
    request, context, question, max_length, stride, seed, longest, count, null, name
):
    task = QuestionAnswering((), max_length)
    options = {"doc_stride": stride, "top_k": count, "max_answer_len": longest}
    windows = encode(task, request.getfixturevalue(name), context, question, **options)
    logits = noise(windows, seed)
    scores = published(context, windows, logits, longest=longest, null=null)
    found = decode(windows, logits, task, align_to_words=False, handle_impossible_answer=null, **options)
    expected = sorted(scores.items(), key=lambda item: -item[1])[:count]
    if not scores:
        assert found.answers == (answer("", 0.0),)
        assert (found.best, found.margin) == (None, None)
        return
    assert [item.score for item in found.answers] == pytest.approx([score for _, score in expected])
    assert [scores[item.start, item.end] for item in found.answers] == pytest.approx([score for _, score in expected])
    check(found, context, count)


def check(found: Answers, context: str, count: int) -> None:
    """What is true of all answers."""
    scores = [item.score for item in found.answers]
    assert 1 <= len(scores) <= count
    assert found.many == (count > 1)
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert len({(item.start, item.end) for item in found.answers}) == len(scores)
    for item in found.answers:
        assert context[item.start : item.end] == item.answer
        assert item.answer.strip() == item.answer
        assert item.answer or (item.start, item.end) == (0, 0)
    assert (found.best is None) == (found.margin is None)
    assert Answers.model_validate_json(found.model_dump_json()) == found
    json.dumps(QuestionAnswering.to_wire(found), allow_nan=False)


@with_fixtures
@given(
    data=st.data(),
    context=CONTEXTS,
    question=st.text(min_size=1, max_size=30).filter(str.strip),
    max_length=SIZES,
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    threshold=st.sampled_from([None, -5.0, 0.0, 3.5, 1e4]),
    name=st.sampled_from(["tiny", "byte_level", "metaspace", "bundled"]),
)
def test_answers_stand_in_the_context_whatever_the_text_the_windows_and_the_logits(
    request, data, context, question, max_length, scale, threshold, name
):
    options = {
        "top_k": data.draw(st.sampled_from([None, 1, 3, 1000])),
        "doc_stride": data.draw(STRIDES),
        "max_answer_len": data.draw(st.sampled_from([None, 1, 10**9])),
        "max_seq_len": data.draw(st.sampled_from([None, 8, 20, 10**9])),
        "max_question_len": data.draw(st.sampled_from([None, 1, 10**9])),
        "handle_impossible_answer": data.draw(st.sampled_from([None, True, False])),
        "align_to_words": data.draw(st.booleans()),
    }
    calibration = {} if threshold is None else {"null_threshold": threshold}
    task = QuestionAnswering((), max_length, stride=data.draw(STRIDES), calibration=calibration)
    windows = encode(task, request.getfixturevalue(name), context, question, **options)
    found = decode(windows, noise(windows, scale=scale), task, **options)
    check(found, context, options["top_k"] or 1)


def test_the_answer_is_found_in_a_far_window(bundled):
    text = "parcel 385 to house 85"
    start = LONG.index(text)
    windows = encode(QuestionAnswering((), 64), bundled, LONG)
    found = decode(windows, pointing(windows, (start, start + len(text), 9.0))).top
    assert (found.answer, found.start, found.end) == (text, start, start + len(text))


def test_positions_of_the_question_and_of_special_tokens_are_no_answers(bundled):
    windows = encode(QuestionAnswering((), 384), bundled, CONTEXT)
    logits = pointing(windows, (START, START + 5, 5.0), null=50.0)
    for head in logits.values():
        for position, side in enumerate(windows.encodings[0].sequence_ids):
            head[0][position] += 50 * (side != 1)
    found = decode(windows, logits)
    assert found.top.answer == "Porto"
    assert found.top.score > 0.2


def test_a_text_that_fits_is_answered_alike_by_every_window_size(bundled):
    narrow = encode(QuestionAnswering((), 64), bundled, CONTEXT)
    wide = encode(QuestionAnswering((), 512), bundled, CONTEXT)
    logits = noise(narrow)
    assert decode(narrow, logits, top_k=50) == decode(wide, logits, top_k=50)


@given(seed=st.integers(0, 2**32), max_length=st.sampled_from([48, 64, 100]))
def test_windows_that_share_an_answers_length_find_the_answer_of_the_whole_text(bundled, seed, max_length):
    context = LONG[:1500]
    source = np.random.default_rng(seed)
    values = {head: source.normal(0, 3, len(context) + 1) for head in QuestionAnswering.heads}

    def by_place(windows: Windows) -> dict[str, Any]:
        return {
            head: [np.array([values[head][pair[side]] for pair in encoding.offsets]) for encoding in windows.encodings]
            for side, head in enumerate(QuestionAnswering.heads)
        }

    cut = encode(QuestionAnswering((), max_length, stride=15), bundled, context)
    complete = encode(QuestionAnswering((), 4096), bundled, context)
    assert len(cut) > len(complete) == 1
    spans = [[(item.start, item.end) for item in decode(it, by_place(it), top_k=20).answers] for it in (cut, complete)]
    assert spans[0] == spans[1]


def test_a_span_in_two_windows_is_one_answer_with_the_better_score(bundled):
    windows = encode(QuestionAnswering((), 64, stride=25), bundled, LONG)
    parts = context_tokens(windows)
    begin, finish = next(pair for pair in parts[0] if pair in parts[1])
    logits = pointing(windows, (begin, finish, 5.0))
    logits["start_logits"][1] *= 1.5
    answers = decode(windows, logits, top_k=200).answers
    [twice] = [item for item in answers if (item.start, item.end) == (begin, finish)]
    everywhere = published(LONG, windows, logits, longest=15, null=False)
    assert twice.score == pytest.approx(everywhere[begin, finish])
    assert twice == answers[0]


def test_answers_are_no_longer_than_asked(bundled):
    windows = encode(QuestionAnswering((), 384), bundled, CONTEXT)
    logits = pointing(windows, (CONTEXT.index("Monday"), START + 5, 9.0))
    assert decode(windows, logits).top.answer == "Monday at 10:45 and reached Porto"
    short = decode(windows, logits, max_answer_len=3, top_k=1000, align_to_words=False).answers
    assert max(sum(item.start <= begin < item.end for begin, _ in context_tokens(windows)[0]) for item in short) == 3
    assert {"Monday", "Porto"} <= {item.answer for item in short}


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({}, 1), ({"top_k": 20, "max_answer_len": 10_000}, 1), ({"max_seq_len": 8, "doc_stride": 10_000}, 3)],
)
@pytest.mark.parametrize("sentence", ["Parcel {} left the warehouse. ", "第{}号包裹已离开仓库。"])
def test_fifty_thousand_characters_and_a_question_as_long_are_read_in_a_second(bundled, sentence, options, seconds):
    context = "".join(map(sentence.format, range(5000)))[:50_000]
    task = QuestionAnswering((), 384)
    began = time.process_time()
    windows = encode(task, bundled, context, context, **options)
    spent = time.process_time() - began
    logits = noise(windows)
    began = time.process_time()
    found = decode(windows, logits, task, **options)
    assert spent + time.process_time() - began < seconds
    assert len(found.answers) == options.get("top_k", 1)


# --- whole words ---------------------------------------------------------------------------------------------------------


def test_answers_are_extended_to_whole_words_unless_asked_otherwise(tiny):
    context = "the wonderfulness of Portofino."
    windows = encode(QuestionAnswering((), 64), tiny, context)
    pieces = [pair for pair in context_tokens(windows)[0] if 21 <= pair[0] < pair[1] <= 30]
    assert len(pieces) > 3
    logits = pointing(windows, (pieces[1][0], pieces[2][1], 9.0))
    assert decode(windows, logits).top.answer == "Portofino"
    assert decode(windows, logits, align_to_words=False).top.answer == context[pieces[1][0] : pieces[2][1]]


def test_a_word_across_two_windows_is_extended_to_its_end(byte_level):
    context = "it went to Portofino today"
    start = context.index("Portofino")
    windows = encode(QuestionAnswering((), 24, stride=0), byte_level, context, "a")
    logits = pointing(windows, (start + 2, start + 3, 9.0))
    assert not any(part[0][0] <= start and start + 9 <= part[-1][1] for part in context_tokens(windows))
    found = decode(windows, logits).top
    assert (found.answer, found.start, found.end) == ("Portofino", start, start + 9)


@pytest.mark.parametrize(
    ("context", "pointed", "expected"),
    [
        ("it went to Porto.", "ort", "Porto."),
        ("他住在北京上海", "北京", "北京"),
        ("abc 서울은", "서울", "서울"),
        ("abc 北京 def", "e", "def"),
        ("กขค abc", "ข", "ข"),
    ],
)
def test_scripts_without_spaces_are_not_extended(metaspace, context, pointed, expected):
    windows = encode(QuestionAnswering((), 64), metaspace, context, "a")
    start = context.index(pointed)
    assert decode(windows, pointing(windows, (start, start + len(pointed), 9.0))).top.answer == expected


def test_leading_spaces_are_no_part_of_answers(byte_level):
    context = "it went  to\n Porto"
    windows = encode(QuestionAnswering((), 64), byte_level, context, "a")
    space = context.index(" Porto")
    logits = pointing(windows, (space, len(context), 9.0))
    for align in (True, False):
        found = decode(windows, logits, align_to_words=align).top
        assert (found.answer, found.start, found.end) == ("Porto", space + 1, len(context))


@pytest.mark.parametrize("word", ["cafe\u0301", "हिन्दु", "❤\ufe0f", "שָׁ"])
@pytest.mark.parametrize("align", [True, False])
def test_marks_that_combine_with_the_last_character_belong_to_the_answer(bundled, word, align):
    context = f"one {word} noir"
    windows = encode(QuestionAnswering((), 64), bundled, context)
    pieces = [(begin, finish) for begin, finish in context_tokens(windows)[0] if 4 <= begin < 4 + len(word)]
    logits = pointing(windows, (pieces[0][0], pieces[-1][1], 9.0))
    assert pieces[-1][1] < 4 + len(word)
    assert decode(windows, logits, align_to_words=align).top.answer == word


# --- no answer -----------------------------------------------------------------------------------------------------------


def test_nothing_is_answered_when_the_margin_exceeds_the_threshold(bundled):
    windows = encode(QuestionAnswering((), 384), bundled, CONTEXT)
    logits = pointing(windows, (START, START + 5, 5.0), null=6.0)
    for threshold, expected in ((1.9, ""), (2.0, "Porto"), (2.1, "Porto")):
        found = decode(windows, logits, QuestionAnswering((), 384, calibration={"null_threshold": threshold}))
        assert found.top.answer == expected
        assert found.margin == 2.0
        assert found.best is not None
        assert found.best.answer == "Porto"


@pytest.mark.parametrize(
    ("calibration", "asked", "possible"),
    [
        ({}, None, False),
        ({}, True, True),
        ({}, False, False),
        ({"null_threshold": 0.0}, None, True),
        ({"null_threshold": 0.0}, True, True),
        ({"null_threshold": 0.0}, False, False),
    ],
)
def test_an_empty_answer_is_possible_where_asked_for_or_learned(bundled, calibration, asked, possible):
    windows = encode(QuestionAnswering((), 384), bundled, CONTEXT)
    logits = pointing(windows, (START, START + 5, 5.0), null=9.0)
    task = QuestionAnswering((), 384, calibration=calibration)
    found = decode(windows, logits, task, handle_impossible_answer=asked, top_k=1000)
    assert ("" in {item.answer for item in found.answers}) == possible
    assert found.top.answer == ("" if possible else "Porto")
    assert found.margin == 8.0


def test_the_window_that_is_surest_of_an_answer_decides_that_there_is_one(bundled):
    windows = encode(QuestionAnswering((), 64), bundled, LONG)
    logits = pointing(windows, null=4.0)
    logits["start_logits"][3][0] = -2.0
    found = decode(windows, logits, handle_impossible_answer=True)
    assert found.margin == 2.0


@with_fixtures
@given(context=CONTEXTS, max_length=SIZES, seed=st.integers(0, 2**32), threshold=st.floats(-20, 20), count=st.integers(1, 6))
def test_a_threshold_moves_the_empty_answer_among_the_others(tiny, context, max_length, seed, threshold, count):
    task = QuestionAnswering((), max_length, calibration={"null_threshold": threshold})
    windows = encode(task, tiny, context, "why")
    logits = noise(windows, seed)
    found = decode(windows, logits, task, top_k=count, align_to_words=False)
    scores = published(context, windows, logits, longest=15, null=True, threshold=threshold)
    expected = sorted(scores.items(), key=lambda item: -item[1])[:count]
    assert [item.score for item in found.answers] == pytest.approx([score for _, score in expected])
    if found.margin is not None:
        assert (found.top.answer == "") == (found.margin > threshold)
    check(found, context, count)


def test_a_context_without_tokens_has_no_answer(bundled):
    windows = encode(QuestionAnswering((), 64), bundled, "\u200b")
    assert context_tokens(windows) == [[]]
    assert decode(windows, noise(windows)) == Answers(answers=(answer("", 0.0),))
    sure = decode(windows, noise(windows), handle_impossible_answer=True)
    assert sure == Answers(answers=(answer("", 1.0),))


def test_rounding_never_carries_a_score_over_one(bundled):
    task = QuestionAnswering((), 64, calibration={"null_threshold": 0.1})
    windows = encode(task, bundled, "\u200b")
    scores = [decode(windows, noise(windows, seed, scale=1e4), task).top.score for seed in range(100)]
    assert scores == pytest.approx([1.0] * 100)
    assert max(scores) == 1


# --- calibration ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Validation rows with the answers to them."""

    outputs: Sequence[Answers]
    rows: Sequence[QaExample]

    def mean(self, threshold: float) -> float:
        texts = [item.best.answer if item.best is not None and item.margin <= threshold else "" for item in self.outputs]
        fractions = [f1(text, row.answers.text) for text, row in zip(texts, self.rows, strict=True)]
        return float(np.mean([numerator / denominator for numerator, denominator in fractions]))


@st.composite
def judged(draw: st.DrawFn) -> Judged:
    outputs, rows = [], []
    for _ in range(draw(st.integers(1, 10))):
        text = draw(st.sampled_from(["Porto", "Lisbon on Monday", "Clara Müller", "the"]))
        rows.append(
            answered("the " + CONTEXT, *draw(st.lists(st.sampled_from(["Porto", "Lisbon", "Clara", "the"]), max_size=2)))
        )
        margin = draw(st.one_of(st.integers(-3, 3).map(float), st.floats(-30, 30)))
        outputs.append(draw(st.sampled_from([output(text, margin=margin)] * 5 + [Answers(answers=(answer("", 0.0),))])))
    return Judged(outputs=outputs, rows=rows)


@given(judged())
def test_the_calibrated_threshold_has_the_highest_mean_f1_of_all(validation):
    found = QuestionAnswering((), 64).calibrate(validation.outputs, validation.rows)
    if all(row.answers.text for row in validation.rows):
        assert found == {}
        return
    margins = [item.margin for item in validation.outputs if item.margin is not None]
    best = max(validation.mean(threshold) for threshold in [-1e9, 1e9, *margins])
    assert validation.mean(found["null_threshold"]) == pytest.approx(best)


def test_a_calibrated_version_abstains_where_its_validation_rows_taught_it(bundled):
    rows = [answered(CONTEXT, "Porto"), answered(CONTEXT), answered(CONTEXT, "Porto"), answered(CONTEXT)]
    task = QuestionAnswering((), 384)
    options = [QaOptions()] * 4
    windows = task.encode(bundled, [task.input_of(row) for row in rows], options)
    each = [pointing(encode(task, bundled, CONTEXT), (START, START + 5, 5.0), null=null) for null in (6.0, 8.0, 5.0, 7.0)]
    logits = {head: [row for one in each for row in one[head]] for head in task.heads}
    outputs = task.decode(windows, logits, options)
    assert [item.margin for item in outputs] == [2, 6, 0, 4]
    assert task.score(outputs, rows).metrics["f1"] == 0.5
    calibration = task.calibrate(outputs, rows)
    assert calibration == {"null_threshold": 3.0}
    learned = QuestionAnswering((), 384, calibration=calibration)
    again = learned.decode(windows, logits, options)
    assert [item.top.answer for item in again] == ["Porto", "", "Porto", ""]
    assert learned.score(again, rows).metrics["f1"] == 1
    assert learned.calibrate(again, rows) == calibration


# --- scores --------------------------------------------------------------------------------------------------------------


def test_scores_are_means_over_rows_and_of_each_kind():
    rows = [answered(CONTEXT, "Porto", "Lisbon"), answered(CONTEXT, "Clara Müller"), answered(CONTEXT), answered(CONTEXT)]
    outputs = [output("the Lisbon."), output("Clara Müller signed"), output(""), output("Monday")]
    score = QuestionAnswering((), 64).score(outputs, rows)
    assert score.metrics == {
        "f1": pytest.approx((1 + 0.8 + 1 + 0) / 4),
        "exact_match": 0.5,
        "has_answer_f1": pytest.approx(0.9),
        "no_answer_f1": 0.5,
        "examples": 4,
    }
    assert score.statistics.dtype == np.int32
    assert score.statistics.tolist() == [[2, 2], [4, 5], [1, 1], [0, 1]]
    assert json.loads(json.dumps(score.metrics, allow_nan=False)) == score.metrics


@pytest.mark.parametrize("texts", [("Porto",), ()])
def test_rows_of_one_kind_have_no_scores_of_kinds(texts):
    score = QuestionAnswering((), 64).score([output("Porto")], [answered(CONTEXT, *texts)])
    assert set(score.metrics) == {"f1", "exact_match", "examples"}
    assert score.metrics["f1"] == len(texts)


@given(judged(), st.integers(0, 2**32))
def test_the_measured_metric_of_repeated_rows_is_the_f1_of_their_score(validation, seed):
    task, rows = QuestionAnswering((), 64), len(validation.rows)
    score = task.score(validation.outputs, validation.rows)
    metric = task.measure(score.metrics, score.statistics)
    assert metric.value() == score.metrics["f1"]
    for times in np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=3):
        repeated = np.repeat(np.arange(rows), times)
        again = task.score([validation.outputs[index] for index in repeated], [validation.rows[index] for index in repeated])
        assert metric.part(repeated).value() == pytest.approx(again.metrics["f1"])


def test_the_measured_metric_counts_a_large_holdout_exactly():
    source = np.random.default_rng(0)
    denominators = source.integers(1, 60, 20_000)
    numerators = source.binomial(denominators, 0.8)
    statistics = np.stack([numerators, denominators], axis=1).astype(np.int32)
    found = QuestionAnswering((), 64).measure({}, statistics).value()
    assert found == pytest.approx(math.fsum(numerators / denominators) / 20_000, abs=1e-12)


# --- differences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        (output("Porto", 0.9), output("Porto", 0.7), 0.2),
        (output("Porto", 0.9), output("Porto", 0.9), 0.0),
        (output("Porto", 0.9), output("Lisbon", 0.8), 0.7),
        (output("Porto", 0.9), output("Porto", 0.8, start=9), 0.7),
        (output("Porto", 0.45), output("Lisbon", 0.44), 0.01),
        (output("Porto", 0.51), output("", 0.51), 0.02),
        (output("Porto", 0.6), output("Lisbon", 0.1), 0.5),
        (output("Porto"), output("Porto").model_copy(update={"many": True}), np.inf),
        (output("Porto"), output("Porto").model_copy(update={"answers": output("Porto").answers * 2}), np.inf),
    ],
)  # fmt: skip
def test_differences_are_the_least_that_the_scores_allow(expected, actual, difference):
    task = QuestionAnswering((), 64)
    assert task.difference(expected, actual) == pytest.approx(difference)
    assert task.difference(actual, expected) == pytest.approx(difference)


@with_fixtures
@given(
    context=CONTEXTS,
    seed=st.integers(0, 2**32),
    rounding=st.sampled_from([0.001, 0.1, 5.0]),
    scale=st.sampled_from([0.1, 3.0]),
    null=st.booleans(),
    count=st.sampled_from([1, 4]),
)
def test_rounding_never_counts_for_more_than_it_changed(tiny, context, seed, rounding, scale, null, count):
    task = QuestionAnswering((), 24)
    windows = encode(task, tiny, context, "why")
    before = noise(windows, seed, scale)
    error = noise(windows, seed + 1, rounding)
    after = {head: [row + change for row, change in zip(before[head], error[head], strict=True)] for head in task.heads}
    options = {"handle_impossible_answer": null, "align_to_words": False}
    scores = [published(context, windows, logits, longest=15, null=null) for logits in (before, after)]
    assume(scores[0])
    changed = max(abs(scores[0][span] - scores[1][span]) for span in scores[0])
    outputs = [decode(windows, logits, task, top_k=count, **options) for logits in (before, after)]
    assert task.difference(*outputs) <= changed + 1e-9


# --- a real model --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question-answering model with a random head, saved by transformers."""
    import torch
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("qa")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = load_model(QuestionAnswering.auto_model, tiny_base, ())
        torch.nn.init.normal_(model.qa_outputs.weight, std=1.0)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def load(saved: Path) -> Iterator[Callable[..., Predictor]]:
    def predictor(max_length: int = 64, **calibration: float) -> Predictor:
        tokenizer, pad_id = load_tokenizer(saved)
        settings = EngineSettings(precision="fp32", device="cpu", threads=1)
        return Predictor(
            task=QuestionAnswering((), max_length, calibration=calibration),
            tokenizer=tokenizer,
            pad_id=pad_id,
            engine=load_engine(saved, QuestionAnswering.auto_model, QuestionAnswering.heads, settings),
            max_batch_tokens=2048,
        )

    return predictor


def test_the_models_own_logits_say_the_same_as_the_predictor(load, saved):
    import torch
    from transformers import AutoModelForQuestionAnswering

    model = AutoModelForQuestionAnswering.from_pretrained(saved)
    encoding = load_tokenizer(saved)[0].encode(QUESTION, CONTEXT)
    sides = encoding.sequence_ids
    with torch.inference_mode():
        logits = model(torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.type_ids]))
    inside = torch.tensor([side == 1 for side in sides])
    start, end = (head[0].masked_fill(~inside, -torch.inf).softmax(-1) for head in (logits.start_logits, logits.end_logits))
    scores = torch.triu(torch.outer(start, end)).tril(14)
    first, last = divmod(int(scores.argmax()), len(sides))
    [found] = load(128).predict([QaInput(question=QUESTION, context=CONTEXT)], [QaOptions(align_to_words=False)])
    assert found.top.answer == CONTEXT[encoding.offsets[first][0] : encoding.offsets[last][1]]
    assert found.top.score == pytest.approx(float(scores.max()), rel=1e-4)


def test_long_and_short_texts_are_answered_together_as_alone(load):
    predictor = load(**{"null_threshold": -4.0})
    texts = [CONTEXT, LONG, "Porto", LONG[500:], "北京 😀", "\u200b"]
    inputs = [QaInput(question=question, context=text) for text in texts for question in (QUESTION, LONG)]
    options = [QaOptions(top_k=1 + number % 3, doc_stride=number) for number in range(len(inputs))]
    together = predictor.predict(inputs, options)
    for item, choice, expected in zip(inputs, options, together, strict=True):
        check(expected, item.context, choice.top_k)
        [alone] = predictor.predict([item], [choice])
        assert predictor.task.difference(alone, expected) < 1e-5


def test_a_version_passes_its_own_probes_and_fails_those_of_another(load):
    predictor = load()
    predictor.warm()
    probes = predictor.probe()
    assert len(probes) == 2
    load().check(probes)
    sure = probes[0].model_copy(update={"output": output("Your", 0.99).model_dump(mode="json")})
    with pytest.raises(CorruptVersion, match="self-check failed: scores for"):
        predictor.check([sure])
