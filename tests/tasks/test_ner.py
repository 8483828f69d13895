"""The NER task: the rows that it takes, how windows and strategies make entities, and that its scores are seqeval's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import softmax as reference_softmax
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2
from tokenizers import Tokenizer, models, pre_tokenizers

from baton.config.base_models import find_base_model
from baton.errors import DataError, InvalidInput
from baton.predict.predictor import load_tokenizer
from baton.tasks.base import IGNORED
from baton.tasks.ner import Ner
from baton.tasks.ner_entities import Entities, Entity, Labels, NerOptions, likeliest_sequence
from baton.tasks.ner_rows import NerExample, NerInput, Span
from baton.tasks.rows import Row
from baton.tasks.windows import Windows
from baton.text import tags
from training.data.sources import parse

TYPES = ("LOC", "PER", "a-b")
LABELS = ("O", *(f"{prefix}-{label}" for label in TYPES for prefix in "BI"))
STRATEGIES = ("words", "none", "simple", "first", "average", "max")

TokenSpans = list[tuple[int, int, str]]


def load_bundled() -> Tokenizer:
    return load_tokenizer(find_base_model("sentence-transformers/all-MiniLM-L6-v2"))[0]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_bundled()


@pytest.fixture(scope="module")
def bytewise() -> Tokenizer:
    """A tokenizer without special tokens whose tokens are the bytes of a text, white space too: many share a character."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


@st.composite
def marked(draw: st.DrawFn) -> tuple[int, TokenSpans]:
    """A number of tokens, and entities over them: apart, next to each other, or none."""
    lengths = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(TYPES)), max_size=6))
    found, place = [], 0
    for gap, length, label in lengths:
        found.append((place + gap, place + gap + length, label))
        place += gap + length
    return place + draw(st.integers(0, 3)), found


def iob2(size: int, spans: TokenSpans) -> list[str]:
    written = ["O"] * size
    for start, end, label in spans:
        written[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    return written


def iob1(size: int, spans: TokenSpans) -> list[str]:
    written = iob2(size, spans)
    ends = {(end, label) for _, end, label in spans}
    for start, _, label in spans:
        if (start, label) not in ends:
            written[start] = f"I-{label}"
    return written


def bioes(size: int, spans: TokenSpans, last: str = "E", single: str = "S") -> list[str]:
    written = iob2(size, spans)
    for start, end, label in spans:
        written[end - 1] = f"{last}-{label}"
        if end - start == 1:
            written[start] = f"{single}-{label}"
    return written


def bilou(size: int, spans: TokenSpans) -> list[str]:
    return bioes(size, spans, "L", "U")


def problem(values: dict[str, Any], fields: dict[str, str] | None = None) -> str:
    """What the reader of data files says about one broken row."""
    with pytest.raises(DataError) as caught:
        parse(Ner, fields or {}, [Row(where="f.jsonl line 3", values=values)], "f.jsonl")
    return str(caught.value).splitlines()[1].strip()


# --- tag schemes ---------------------------------------------------------------------------------------------------------


@given(marked(), st.sampled_from([iob2, iob1, bioes, bilou]))
def test_entities_written_as_tags_are_read_back_from_every_scheme(spans, write):
    assert tags.spans(write(*spans)) == spans[1]


@given(st.lists(st.sampled_from(LABELS), max_size=12))
def test_any_sequence_of_b_i_and_o_has_one_reading(written):
    spans = tags.spans(written)
    assert tags.spans(iob2(len(written), spans)) == spans
    assert [tag[2:] for tag in iob2(len(written), spans)] == [tag[2:] for tag in written]


def test_an_i_after_another_type_begins_an_entity():
    assert tags.spans(["I-PER", "I-PER", "I-LOC", "B-LOC", "O", "I-LOC"]) == [
        (0, 2, "PER"), (2, 3, "LOC"), (3, 4, "LOC"), (5, 6, "LOC"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (["O", "E-PER"], "tag 1, 'E-PER', has no B-PER before it (the tags are BIOES)"),
        (["O", "L-PER"], "tag 1, 'L-PER', has no B-PER before it (the tags are BIOES)"),
        (["S-LOC", "I-PER"], "tag 1, 'I-PER', has no B-PER before it (the tags are BIOES)"),
        (["B-PER", "I-LOC", "E-PER"], "tag 1, 'I-LOC', must be I-PER or E-PER: tag 0 began that entity (BIOES)"),
        (["B-PER", "E-LOC"], "tag 1, 'E-LOC', must be I-PER or E-PER: tag 0 began that entity (BIOES)"),
        (["B-PER", "O", "S-LOC"], "tag 1, 'O', must be I-PER or E-PER: tag 0 began that entity (BIOES)"),
        (["S-LOC", "B-PER", "B-PER", "E-PER"], "tag 2, 'B-PER', must be I-PER or E-PER: tag 1 began that entity (BIOES)"),
        (["U-LOC", "B-PER", "I-PER"], "tag 1, 'B-PER', has no E-PER after it (the tags are BIOES)"),
    ],
)
def test_tags_that_do_not_nest_are_refused_with_their_place(written, message):
    with pytest.raises(ValueError, match="tag") as caught:
        tags.spans(written)
    assert str(caught.value) == message
    assert problem({"tokens": ["x"] * len(written), "tags": written}).endswith(message)


@pytest.mark.parametrize("tag", ["", "PER", "X-PER", "M-PER", "B-", "B", "o", "b-PER", "B_PER", " O"])
def test_what_is_no_tag_is_refused_with_its_place(tag):
    assert problem({"tokens": ["a", "b"], "tags": ["O", tag]}) == (
        f"f.jsonl line 3, field 'tags[1]': {tag!r}: not a tag; allowed: O, or B-, I-, E-, S-, L- or U- with a type, "
        "for example B-PER"
    )


# --- texts from tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["Clara", "lives", "in", "Oslo", "."], "Clara lives in Oslo ."),
        (["加藤", "泽男", "于", "1999", "年"], "加藤泽男于1999年"),
        (["我", "用", "iPhone", "15", "Pro", "拍照"], "我用iPhone 15 Pro拍照"),
        (["我", "用", "iPhone", "，", "15", "块"], "我用iPhone，15块"),
        (["Giuliano", "Pisapia", "于", "1949", "年", "出生"], "Giuliano Pisapia于1949年出生"),
        (["東京", "タワー", "に", "行きました"], "東京タワーに行きました"),
        (["เขา", "ไป", "กรุงเทพ"], "เขาไปกรุงเทพ"),
        (["ភ្នំពេញ", "ជា", "ទីក្រុង"], "ភ្នំពេញជាទីក្រុង"),
        (["그는", "서울에", "산다"], "그는 서울에 산다"),
        (["Он", "живёт", "в", "Москве"], "Он живёт в Москве"),
        (["The", "word", "漢字", "means", "characters"], "The word 漢字 means characters"),
        (["1", "+", "1"], "1 + 1"),
        (["😀", "!"], "😀 !"),
        (["Oslo"], "Oslo"),
    ],
)
def test_tokens_are_joined_as_their_script_is_written(tokens, text):
    joined, starts = tags.join(tokens)
    assert joined == text
    assert [joined[start : start + len(token)] for start, token in zip(starts, tokens, strict=True)] == tokens


@given(st.lists(st.text("ab1 é漢字かナไท.,😀\u0301", min_size=1), min_size=1), st.data())
def test_entities_slice_the_joined_text_to_exactly_their_tokens(tokens, data):
    text, starts = tags.join(tokens)
    assert [text[start : start + len(token)] for start, token in zip(starts, tokens, strict=True)] == tokens
    assert text.replace(" ", "") == "".join(tokens).replace(" ", "")
    first = data.draw(st.integers(0, len(tokens) - 1))
    after = data.draw(st.integers(first + 1, len(tokens)))
    piece = text[starts[first] : starts[after - 1] + len(tokens[after - 1])]
    if text.strip() and piece == piece.strip():
        made = NerExample(tokens=tokens, tags=iob2(len(tokens), [(first, after, "X")]))
        assert made.text == text
        [span] = made.entities
        assert text[span.start : span.end] == piece


def test_chinese_tokens_become_entities_of_the_text_without_spaces():
    made = NerExample(tokens=["张", "三", "在", "北", "京"], tags=["B-PER", "I-PER", "O", "B-LOC", "I-LOC"])
    assert made.text == "张三在北京"
    assert [(made.text[span.start : span.end], span.label) for span in made.entities] == [("张三", "PER"), ("北京", "LOC")]


# --- rows ----------------------------------------------------------------------------------------------------------------


@given(marked(), st.sampled_from([iob2, iob1, bioes, bilou]))
def test_both_shapes_of_a_row_become_the_same_example(spans, write):
    size, found = spans
    tokens = [f"w{place}" for place in range(size)] or ["w"]
    from_tags = NerExample(tokens=tokens, tags=write(len(tokens), found))
    entities = [
        {"start": from_tags.text.index(tokens[first]), "end": len(" ".join(tokens[:after])), "label": label}
        for first, after, label in reversed(found)
    ]
    assert from_tags == NerExample(text=" ".join(tokens), entities=entities)
    assert NerExample.model_validate_json(from_tags.model_dump_json(exclude_none=True)) == from_tags


def test_a_frozen_row_holds_one_shape():
    made = NerExample(tokens=["in", "Oslo"], tags=["O", "S-LOC"])
    assert json.loads(made.model_dump_json()) == {"text": "in Oslo", "entities": [{"start": 3, "end": 7, "label": "LOC"}]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, ": 2 tokens but 1 tags; each token needs one tag"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, ", field 'tokens[1]': '': String should have at least 1 character"),
        ({"tokens": [], "tags": []}, ", field 'text': '': text is empty; send at least one character that is not white space"),
        ({"tokens": "a b", "tags": ["O"]}, ", field 'tokens': 'a b': Input should be a valid tuple"),
        ({"tokens": ["a"], "tags": [3]}, ", field 'tags[0]': 3: Input should be a valid string"),
        ({"text": "Oslo", "entities": [{"start": -1, "end": 2, "label": "X"}]},
         ", field 'entities[0].start': -1: Input should be greater than or equal to 0"),
        ({"text": "Oslo", "entities": [{"start": 0, "end": 9, "label": "X"}]},
         "'X' at 0–9 ends beyond the text, which has 4 characters"),
        ({"text": "Oslo", "entities": [{"start": 2, "end": 2, "label": "X"}]},
         "'X' at 2–2 is empty; end must be greater than start"),
        ({"text": "Oslo", "entities": [{"start": 3, "end": 1, "label": "X"}]},
         "'X' at 3–1 is empty; end must be greater than start"),
        ({"text": "in Oslo", "entities": [{"start": 3, "end": 7, "label": "X"}, {"start": 0, "end": 4, "label": "Y"}]},
         "'Y' at 0–4 and 'X' at 3–7 overlap; a character may be part of one entity only"),
        ({"text": "in Oslo", "entities": [{"start": 2, "end": 7, "label": "X"}]},
         "'X' at 2–7 is ' Oslo'; an entity must not begin or end with white space"),
        ({"text": "Oslo", "entities": [{"start": 0, "end": 4, "label": "O"}]},
         ", field 'entities[0].label': 'O': O is not an entity type: it means that there is no entity; leave such spans out"),
        ({"text": "Oslo", "entities": [{"start": 0, "end": 4, "label": ""}]},
         ", field 'entities[0].label': '': a label is blank; give at least one character that is not white space"),
        ({"text": "Oslo", "entities": [{"start": 0, "end": 4}]},
         ": entities[0]: {'start': 0, 'end': 4} has no label; expected {\"start\": 0, \"end\": 4, \"label\": \"PER\"} or "
         '[0, 4, "PER"]'),
        ({"text": "in Oslo", "entities": [{"start": 4, "end": 7, "label": "X", "text": "Oslo"}]},
         ": entities[0]: 'X' at 4–7 reads 'slo', but the row says 'Oslo', which stands at 3–7; positions count code points "
         "from 0, and the end is exclusive"),
        ({"text": "Oslo", "entities": ["Oslo"]},
         ": entities[0]: 'Oslo': expected {\"start\": 0, \"end\": 4, \"label\": \"PER\"} or [0, 4, \"PER\"]"),
        ({"text": "Oslo", "entities": [{"start": 0, "end": 4, "labels": ["X", "Y"]}]},
         ": entities[0]: {'start': 0, 'end': 4, 'labels': ['X', 'Y']} has 2 types; an entity has one"),
        ({"text": " ", "entities": []},
         ", field 'text': ' ': text is empty; send at least one character that is not white space"),
        ({"text": "Oslo"}, ": field 'entities' is missing; the row has 'text' (map names with data.fields)"),
        ({"tokens": ["Oslo"]}, ": field 'tags' is missing; the row has 'tokens' (map names with data.fields)"),
    ],
)  # fmt: skip
def test_a_broken_row_is_refused_with_its_place_and_value(values, message):
    assert problem(values).startswith("f.jsonl line 3")
    assert problem(values).endswith(message)


def test_a_mistake_is_named_by_the_column_of_the_file():
    assert "field 'ner_tags[0]': 'PER'" in problem({"tokens": ["a"], "ner_tags": ["PER"]}, {"tags": "ner_tags"})


def test_a_row_is_not_both_shapes_at_once():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        NerExample(text="a", tokens=["a"], tags=["O"])


def test_entities_are_sorted_and_may_touch():
    spans = [Span(start=2, end=4, label="X"), Span(start=0, end=2, label="Y")]
    assert NerExample(text="abcd", entities=spans).entities == (spans[1], spans[0])


def test_a_row_may_have_no_entities():
    assert NerExample(text="nothing here", entities=[]).entities == ()
    assert NerExample(tokens=["nothing", "here"], tags=["O", "O"]).entities == ()


# --- labels --------------------------------------------------------------------------------------------------------------


def rows(*labels: Sequence[str]) -> list[NerExample]:
    """For each argument a text with entities of these types."""
    return [NerExample(tokens=["w"] * max(1, len(names)), tags=[f"B-{name}" for name in names] or ["O"]) for names in labels]


def test_labels_are_o_and_two_for_each_type_in_order():
    assert Ner.labels_of(rows(["PER", "LOC"], [], ["a-b", "LOC"])) == LABELS


def test_training_data_without_an_entity_is_refused():
    with pytest.raises(DataError, match="ner needs at least one entity in the training data; it has none"):
        Ner.labels_of(rows([], []))


def test_a_holdout_type_that_training_lacks_is_named_with_the_known_ones():
    with pytest.raises(
        DataError, match=r"has 2 entity types that the training data lacks: 'X', 'Y'; training has 'LOC', 'PER', 'a-b'$"
    ):
        Ner(LABELS, 32).check(rows(["PER"], ["Y", "X"]))
    Ner(LABELS, 32).check(rows(["PER"], []))


def test_a_holdout_is_drawn_within_the_type_of_the_first_entity():
    assert Ner.strata(rows(["PER", "LOC"], [], ["LOC"])) == ["PER", "", "LOC"]


def test_the_question_of_a_row_is_its_text():
    [row] = rows(["PER", "LOC"])
    assert Ner(LABELS, 32).input_of(row) == NerInput(text="w w")
    assert Ner.content(row) == "w w"


# --- windows -------------------------------------------------------------------------------------------------------------

TABLE = np.random.default_rng(0).normal(scale=4, size=(40_000, len(LABELS))).astype(np.float32)
"""Logits of every token id of the bundled vocabulary."""


def encode(tokenizer: Tokenizer, text: str, max_length: int = 512, own: int | None = None, **options: Any) -> Windows:
    task = Ner(LABELS, max_length, stride=own)
    return task.encode(task.prepare_tokenizer(tokenizer), [NerInput.model_construct(text=text)], [NerOptions(**options)])


def answer(tokenizer: Tokenizer, text: str, max_length: int = 512, own: int | None = None, **options: Any) -> Entities:
    """The answer of a model whose logits depend on the token alone; padded, as a batch would have it."""
    task = Ner(LABELS, max_length, stride=own)
    choices = [NerOptions(**options)]
    windows = task.encode(task.prepare_tokenizer(tokenizer), [NerInput.model_construct(text=text)], choices)
    [output] = task.decode(windows, {"logits": [TABLE[[*ids, 0, 0]] for ids in windows.ids]}, choices)
    return output


@settings(max_examples=80)
@given(
    text=st.text("ab cd漢字한é.\u0301😀\n", min_size=1, max_size=150),
    max_length=st.integers(3, 40),
    stride=st.integers(0, 60),
    strategy=st.sampled_from(STRATEGIES),
)
def test_windows_of_any_size_and_stride_give_the_answer_of_one_window(tokenizer, text, max_length, stride, strategy):
    whole = answer(tokenizer, text, aggregation_strategy=strategy, ignore_labels=[])
    assert answer(tokenizer, text, max_length, stride, aggregation_strategy=strategy, ignore_labels=[]) == whole
    assert answer(tokenizer, text, max_length, aggregation_strategy=strategy, ignore_labels=[], stride=stride) == whole


@given(size=st.integers(1, 90), max_length=st.integers(3, 40), stride=st.integers(0, 60))
def test_a_token_is_labelled_by_the_window_in_which_it_is_farthest_from_a_cut(tokenizer, size, max_length, stride):
    windows = encode(tokenizer, "oslo " * size, max_length, stride)
    room = max_length - 2
    step = room - min(stride, room // 2)
    spans = [(number * step, number * step + len(ids) - 2) for number, ids in enumerate(windows.ids)]
    logits = [np.tile(np.eye(len(LABELS), dtype=np.float32)[0], (len(ids), 1)) for ids in windows.ids]
    for token in range(size):
        here = [number for number, (start, end) in enumerate(spans) if start <= token < end]
        assert 1 <= len(here) <= 2
        left = {number: token - spans[number][0] if number else np.inf for number in here}
        right = {number: spans[number][1] - 1 - token if number < len(spans) - 1 else np.inf for number in here}
        best = max(here, key=lambda number: min(left[number], right[number]))
        logits[best][1 + token - spans[best][0]] = 5 * np.eye(len(LABELS))[1]
    [output] = Ner(LABELS, max_length, stride=stride).decode(windows, {"logits": logits}, [NerOptions()])
    assert output.word_labels == (LABELS[1],) * size


def test_a_stride_in_the_options_counts_more_than_the_models_own(tokenizer):
    text = "oslo " * 40
    assert len(encode(tokenizer, text, 22, 0)) == 2
    assert len(encode(tokenizer, text, 22, 10)) == 3
    assert len(encode(tokenizer, text, 22, 0, stride=10)) == 3
    assert len(encode(tokenizer, text, 22, 10, stride=0)) == 2


@pytest.mark.parametrize("stride", [0, 40, 126, 10**9])
def test_no_stride_makes_the_work_for_a_long_text_more_than_double(tokenizer, stride):
    text = ("Clara flew to Oslo. " * 2_500)[:50_000]
    windows = encode(tokenizer, text, 128, stride=stride)
    tokens = len(tokenizer.encode(text, add_special_tokens=False))
    assert max(map(len, windows.ids)) == 128
    assert tokens < sum(len(ids) for ids in windows.ids) < 2.1 * tokens


def test_each_text_of_a_batch_has_its_own_windows_and_options(tokenizer):
    task = Ner(LABELS, 16)
    texts = ["Oslo", "\x00", "Clara flew to Oslo. " * 9, "Rome"]
    choices = [NerOptions(aggregation_strategy=strategy, ignore_labels=()) for strategy in ("none", "words", "max", "simple")]
    windows = task.encode(task.prepare_tokenizer(tokenizer), [NerInput(text=text) for text in texts], choices)
    together = task.decode(windows, {"logits": [TABLE[ids] for ids in windows.ids]}, choices)
    for text, choice, output in zip(texts, choices, together, strict=True):
        assert output == answer(tokenizer, text, 16, **choice.model_dump())
    assert together[1] == Entities(entities=(), word_labels=(), word_scores=())


# --- targets -------------------------------------------------------------------------------------------------------------


def tagged(tokenizer: Tokenizer, text: str, entities: Sequence[tuple[str, str]], max_length: int = 64) -> list[list[str]]:
    """For each window its targets by name, a dash where there is nothing to learn; entities are given by their words."""
    spans = [{"start": text.index(words), "end": text.index(words) + len(words), "label": label} for words, label in entities]
    task = Ner(LABELS, max_length)
    windows = encode(tokenizer, text, max_length)
    targets = task.targets([NerExample(text=text, entities=spans)], windows)
    assert list(map(len, targets)) == list(map(len, windows.ids))
    return [["-" if label == IGNORED else LABELS[label] for label in window] for window in targets]


def test_only_the_first_token_of_each_word_is_labelled(tokenizer):
    text = "Ollenshaw met New York's Ollenshaws."
    assert encode(tokenizer, text).encodings[0].tokens == [
        "[CLS]", "ol", "##len", "##shaw", "met", "new", "york", "'", "s", "ol", "##len", "##shaw", "##s", ".", "[SEP]",
    ]  # fmt: skip
    assert tagged(tokenizer, text, [("Ollenshaw", "PER"), ("New York", "LOC")]) == [
        ["-", "B-PER", "-", "-", "O", "B-LOC", "I-LOC", "O", "-", "O", "-", "-", "-", "O", "-"]
    ]


def test_an_entity_of_several_words_is_continued_at_the_first_token_of_each(tokenizer):
    assert tagged(tokenizer, "Ollenshaw Ollenshaw, U.S.", [("Ollenshaw Ollenshaw", "PER"), ("U.S.", "LOC")]) == [
        ["-", "B-PER", "-", "-", "I-PER", "-", "-", "O", "B-LOC", "-", "-", "I-LOC", "-"]
    ]


def test_neighbours_of_one_type_begin_each(tokenizer):
    assert tagged(tokenizer, "北京上海", [("北京", "LOC"), ("上海", "LOC")]) == [["-", "B-LOC", "I-LOC", "B-LOC", "I-LOC", "-"]]


@pytest.mark.parametrize("part", ["may", "mayor", "or", "-el", "elect", "mayor-elect"])
def test_a_word_that_an_entity_covers_in_part_belongs_to_it(tokenizer, part):
    assert tagged(tokenizer, "the mayor-elect left", [(part, "PER")]) == [["-", "O", "B-PER", "-", "-", "O", "-"]]


def test_a_word_of_two_entities_belongs_to_the_first(tokenizer):
    assert tagged(tokenizer, "the mayor left", [("may", "PER"), ("or left", "LOC")]) == [["-", "O", "B-PER", "B-LOC", "-"]]


def test_an_entity_whose_only_word_belongs_to_another_is_not_learned(tokenizer):
    assert tagged(tokenizer, "to Oslo/Bergen now", [("Oslo", "LOC"), ("Bergen", "a-b")]) == [
        ["-", "O", "B-LOC", "-", "-", "O", "-"]
    ]


def test_tokens_that_share_a_character_begin_one_word(tokenizer):
    encoding = encode(tokenizer, "한국 여행").encodings[0]
    assert encoding.offsets[1:4] == [(0, 1)] * 3
    assert tagged(tokenizer, "한국 여행", [("여행", "LOC")]) == [["-", "O", *"-----", "B-LOC", *"----", "-"]]


def test_a_word_whose_first_character_the_tokenizer_drops_begins_with_the_next(tokenizer):
    text = "京\U000e0100met"  # a variant of the character, chosen by a mark that is a word of its own
    assert encode(tokenizer, text).encodings[0].offsets[1:-1] == [(0, 1), (2, 5)]
    assert tagged(tokenizer, text, [("met", "LOC")]) == [["-", "O", "B-LOC", "-"]]


def test_a_text_without_tokens_has_no_targets_to_learn(tokenizer):
    assert tagged(tokenizer, "\x00", [("\x00", "PER")]) == [["-", "-"]]


def test_a_window_that_starts_inside_an_entity_continues_it(tokenizer):
    windows = tagged(tokenizer, "the people from new york city hall", [("new york city hall", "LOC")], max_length=7)
    assert windows == [
        ["-", "O", "O", "O", "B-LOC", "I-LOC", "-"],
        ["-", "I-LOC", "I-LOC", "I-LOC", "-"],
    ]


def test_a_window_that_starts_inside_a_word_does_not_label_the_rest_of_it(tokenizer):
    assert tagged(tokenizer, "met Ollenshaw", [("Ollenshaw", "PER")], max_length=4) == [
        ["-", "O", "B-PER", "-"], ["-", "B-PER", "-", "-"], ["-", "-", "-", "-"],
    ]  # fmt: skip


SPACED = (
    ["Ollenshaw", "O'Brien", "Obi-Wan", "U.S", "José", "Ельцин", "שלום", "7.5", "@anna", "#a_1"],
    [" ", ", ", " (", "’s ", "” – “", " %", "\n\n"],
)
UNSPACED = (["京", "東", "北", "iPhone", "Obi-Wan"], ["，", "（", "）", "「", "、“"])
"""Words, and what may stand between any two of them."""


@st.composite
def written(draw: st.DrawFn) -> NerExample:
    """A text whose entities begin and end where words do."""
    size, spans = draw(marked())
    size = size or 1
    names, marks = draw(st.sampled_from([SPACED, UNSPACED]))
    text, places = draw(st.sampled_from(["", "“", "-"])), []
    for before, name in pairwise(("“", *draw(st.lists(st.sampled_from(names), min_size=size, max_size=size)))):
        touching = marks is UNSPACED[1] and not (before.isascii() and name.isascii())
        if places:
            text += draw(st.sampled_from(["", *marks] if touching else marks))
        places.append((len(text), len(text) + len(name)))
        text += name
    text += draw(st.sampled_from(["", ".", "’s", " "]))
    entities = [Span(start=places[first][0], end=places[after - 1][1], label=label) for first, after, label in spans]
    return NerExample(text=text, entities=entities)


def learnt(row: NerExample, tokenizer: Tokenizer, max_length: int, stride: int, others: int) -> list[Span]:
    """The entities found by a model that answers the targets, and label number ``others`` where there is nothing to learn."""
    task = Ner(LABELS, max_length, stride=stride)
    options = [NerOptions()]
    windows = task.encode(task.prepare_tokenizer(tokenizer), [task.input_of(row)], options)
    targets = task.targets([row], windows)
    logits = [
        10 * np.eye(len(LABELS), dtype=np.float32)[[others if label == IGNORED else label for label in window]]
        for window in targets
    ]
    [output] = task.decode(windows, {"logits": logits}, options)
    return [Span(start=entity.start, end=entity.end, label=entity.label) for entity in output.entities]


@settings(max_examples=100)
@given(row=written(), max_length=st.integers(3, 20), stride=st.integers(0, 12), others=st.integers(0, len(LABELS) - 1))
def test_a_model_that_learnt_the_targets_finds_the_entities_whatever_the_windows(tokenizer, row, max_length, stride, others):
    assert learnt(row, tokenizer, max_length, stride, others) == list(row.entities)


@settings(max_examples=60)
@given(row=written(), max_length=st.integers(2, 40), stride=st.integers(0, 12), others=st.integers(0, len(LABELS) - 1))
def test_so_it_does_where_tokens_are_bytes(bytewise, row, max_length, stride, others):
    assert learnt(row, bytewise, max_length, stride, others) == list(row.entities)


@pytest.mark.parametrize(
    ("text", "name"), [("to Rene\u0301, ok", "Rene\u0301"), ("ok हिन्दु।", "हिन्दु"), ("สวัสดี", "วั"), ("(서울에서)", "서울에서")]
)
@pytest.mark.parametrize("max_length", [3, 8, 64])
def test_an_entity_has_all_marks_of_its_letters_where_the_tokenizer_keeps_them(bytewise, text, name, max_length):
    span = Span(start=text.index(name), end=text.index(name) + len(name), label="LOC")
    assert learnt(NerExample(text=text, entities=[span]), bytewise, max_length, 2, 1) == [span]


# --- strategies ----------------------------------------------------------------------------------------------------------

PIECES = ["ol", "##len", "##shaw", "met", "new", "york"]
SCORES = {
    "ol": {"B-PER": 0.6, "O": 0.3},
    "##len": {"I-PER": 0.5, "B-LOC": 0.4},
    "##shaw": {"I-LOC": 0.9},
    "met": {"O": 0.8},
    "new": {"B-LOC": 0.7},
    "york": {"I-LOC": 0.4, "O": 0.3},
}
"""Of the tokens of this text: probabilities of some labels; the other labels share the rest."""


def by_hand(tokenizer: Tokenizer, changed: dict[str, dict[str, float]] | None = None, **options: Any) -> list[dict[str, Any]]:
    """The answer to the text with these scores, of which some pieces' may be ``changed``."""
    scores = {**SCORES, **(changed or {})}
    task = Ner(LABELS, 64)
    choices = [NerOptions(**options)]
    windows = task.encode(task.prepare_tokenizer(tokenizer), [NerInput(text="Ollenshaw met New York")], choices)
    table = np.full((len(PIECES) + 2, len(LABELS)), 1 / len(LABELS))
    for row, piece in zip(table[1:-1], PIECES, strict=True):
        row[:] = (1 - sum(scores[piece].values())) / (len(LABELS) - len(scores[piece]))
        for label, score in scores[piece].items():
            row[LABELS.index(label)] = score
    [output] = task.decode(windows, {"logits": [np.log(table).astype(np.float32)]}, choices)
    return Ner.to_wire(output)


def group(label: str, score: float, word: str, start: int) -> dict[str, Any]:
    return {"entity_group": label, "score": pytest.approx(score), "word": word, "start": start, "end": start + len(word)}


def test_none_answers_every_token_with_its_index(tokenizer):
    found = by_hand(tokenizer, aggregation_strategy="none")
    assert found[0] == {"entity": "B-PER", "score": pytest.approx(0.6), "index": 1, "word": "Ol", "start": 0, "end": 2}
    assert [(token["entity"], token["index"], token["word"]) for token in found] == [
        ("B-PER", 1, "Ol"), ("I-PER", 2, "len"), ("I-LOC", 3, "shaw"), ("B-LOC", 5, "New"), ("I-LOC", 6, "York"),
    ]  # fmt: skip


def test_words_is_the_default_and_gives_whole_words_the_label_of_their_first_token(tokenizer):
    expected = [group("PER", 0.6, "Ollenshaw", 0), group("LOC", 0.55, "New York", 14)]
    assert by_hand(tokenizer) == by_hand(tokenizer, aggregation_strategy="words") == expected


def test_words_takes_the_likeliest_labels_that_make_sense_together(tokenizer):
    torn = {"york": {"I-PER": 0.5, "I-LOC": 0.3}}
    assert by_hand(tokenizer, torn)[1:] == [group("LOC", (0.7 + 0.3) / 2, "New York", 14)]
    assert [found["word"] for found in by_hand(tokenizer, torn, aggregation_strategy="first")] == ["Ollenshaw", "New", "York"]


def test_an_i_that_continues_nothing_becomes_a_b_or_goes(tokenizer):
    ending = {"new": {"O": 0.9}, "york": {"I-LOC": 0.5, "B-LOC": 0.3}}
    assert by_hand(tokenizer, ending)[1:] == [group("LOC", 0.3, "York", 18)]
    ending = {"new": {"O": 0.9}, "york": {"I-LOC": 0.5, "O": 0.3}}
    assert by_hand(tokenizer, ending)[1:] == []
    assert by_hand(tokenizer, ending, aggregation_strategy="simple")[-1] == group("LOC", 0.5, "York", 18)


def test_words_keeps_hyphens_and_apostrophes_inside_and_leaves_what_is_at_the_edges(tokenizer):
    text = "“Obi-Wan’s” O'Brien (U.S.)"
    found = answer(tokenizer, text, ignore_labels=[])
    assert len(found.word_labels) == len(found.word_scores) == 9  # “ Obi-Wan ’s ” O'Brien ( U.S . )
    [output] = Ner(LABELS, 64).decode(
        windows := encode(tokenizer, text, 64),
        {"logits": [np.tile(10 * np.eye(len(LABELS), dtype=np.float32)[1], (len(windows.ids[0]), 1))]},
        [NerOptions()],
    )
    assert [entity.word for entity in output.entities] == ["“", "Obi-Wan", "’s", "”", "O'Brien", "(", "U.S", ".", ")"]


def test_simple_joins_tokens_of_one_type(tokenizer):
    expected = [group("PER", 0.55, "Ollen", 0), group("LOC", 0.9, "shaw", 5), group("LOC", 0.55, "New York", 14)]
    assert by_hand(tokenizer, aggregation_strategy="simple") == expected


def test_first_gives_a_word_the_label_of_its_first_token(tokenizer):
    expected = [group("PER", 0.6, "Ollenshaw", 0), group("LOC", 0.55, "New York", 14)]
    assert by_hand(tokenizer, aggregation_strategy="first") == expected


def test_max_gives_a_word_the_label_of_its_surest_token(tokenizer):
    expected = [group("LOC", 0.9, "Ollenshaw", 0), group("LOC", 0.55, "New York", 14)]
    assert by_hand(tokenizer, aggregation_strategy="max") == expected


def test_average_gives_a_word_the_label_with_the_best_mean(tokenizer):
    i_loc = (0.1 / 5 + 0.1 / 5 + 0.9) / 3
    expected = [group("LOC", i_loc, "Ollenshaw", 0), group("LOC", 0.55, "New York", 14)]
    assert by_hand(tokenizer, aggregation_strategy="average") == expected


def test_ignored_labels_still_part_what_stands_around_them(tokenizer):
    assert [found["entity_group"] for found in by_hand(tokenizer, ignore_labels=["LOC"])] == ["PER", "O"]
    assert [found["word"] for found in by_hand(tokenizer, ignore_labels=[])] == ["Ollenshaw", "met", "New York"]
    assert [found["word"] for found in by_hand(tokenizer, aggregation_strategy="simple", ignore_labels=[])] == [
        "Ollen", "shaw", "met", "New York",
    ]  # fmt: skip
    assert [found["word"] for found in by_hand(tokenizer, aggregation_strategy="none", ignore_labels=["O", "I-LOC"])] == [
        "Ol", "len", "New",
    ]  # fmt: skip


def test_null_options_mean_the_defaults(tokenizer):
    null = NerOptions(aggregation_strategy=None, ignore_labels=None, stride=None)
    assert null == NerOptions() == NerOptions(aggregation_strategy="words", ignore_labels=["O"])


@pytest.mark.parametrize(
    "options", [{"aggregation_strategy": "median"}, {"stride": -1}, {"ignore_labels": "O"}, {"strategy": "simple"}]
)
def test_unknown_options_and_values_are_refused(options):
    with pytest.raises(ValidationError):
        NerOptions(**options)


@settings(max_examples=150)
@given(
    text=st.text(min_size=1, max_size=60),
    max_length=st.integers(3, 24),
    stride=st.none() | st.integers(0, 30),
    strategy=st.sampled_from(STRATEGIES),
    ignored=st.sampled_from([("O",), (), ("O", "PER"), ("LOC",)]),
)
@example(text="한국 여행 각각", max_length=64, stride=None, strategy="simple", ignored=())
@example(text="한국 여행 각각", max_length=5, stride=1, strategy="words", ignored=())
@example(text="\u0301a ‼\ufe0fb c\u200d", max_length=8, stride=2, strategy="words", ignored=())
@example(text="Ｎｅｗ ﬁ ½ İstanbul ß e\u0301\u0301", max_length=8, stride=2, strategy="max", ignored=())
def test_whatever_the_text_entities_are_slices_of_it_with_scores_and_apart(
    tokenizer, text, max_length, stride, strategy, ignored
):
    output = answer(tokenizer, text, max_length, aggregation_strategy=strategy, ignore_labels=ignored, stride=stride)
    place = 0
    for entity in output.entities:
        assert 0 <= entity.start < entity.end <= len(text)
        assert entity.word == text[entity.start : entity.end]
        assert 0 < entity.score <= 1
        assert entity.label not in ignored
        if strategy != "none":
            assert entity.start >= place
            assert entity.word == entity.word.strip()
            place = entity.end
    assert all(0 < score <= 1 for score in output.word_scores)
    assert len(output.word_labels) == len(output.word_scores)


@given(st.lists(st.lists(st.floats(-50, 50, width=32), min_size=len(LABELS), max_size=len(LABELS)), min_size=1, max_size=8))
def test_word_scores_are_the_softmax(tokenizer, table):
    logits = np.array(table, dtype=np.float32)
    task = Ner(LABELS, 64)
    windows = encode(tokenizer, "oslo " * len(logits))
    [output] = task.decode(windows, {"logits": [np.pad(logits, ((1, 1), (0, 0)))]}, [NerOptions()])
    expected = reference_softmax(logits.astype(np.float64), axis=1).max(axis=1)
    assert output.word_scores == pytest.approx(expected.tolist(), abs=1e-6)


def test_huge_logits_do_not_overflow(tokenizer):
    task = Ner(("O", "B-X", "I-X"), 64)
    windows = encode(tokenizer, "oslo")
    logits = np.array([[0, 0, 0], [-1e30, 1e30, 0], [0, 0, 0]], dtype=np.float32)
    [output] = task.decode(windows, {"logits": [logits]}, [NerOptions()])
    assert [(entity.word, entity.score) for entity in output.entities] == [("oslo", 1.0)]


# --- sequences of labels -------------------------------------------------------------------------------------------------

SMALL = ("O", "B-X", "I-X", "B-Y", "I-Y")


def sensible(names: Sequence[str]) -> bool:
    """Whether each I-X follows a B-X or an I-X: no entity begins with an I-."""
    return all(name[0] != "I" or before in (f"B{name[1:]}", name) for before, name in pairwise(("O", *names)))


def best_of_all(scores: np.ndarray[Any, Any], names: Sequence[str]) -> tuple[list[int], float]:
    """Of all sequences that make sense the one with the largest product of scores [n, labels], and that product."""
    candidates = [chosen for chosen in product(range(len(names)), repeat=len(scores)) if sensible([names[i] for i in chosen])]
    products = scores.astype(np.float64)[np.arange(len(scores)), np.array(candidates, dtype=np.int64)].prod(axis=1)
    return list(candidates[products.argmax()]), float(products.max())


def tables(names: Sequence[str]) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Scores [n, labels] of a few words, some of them equal; most of their best labels do not make sense together."""
    row = st.lists(st.sampled_from([1e-6, 0.1, 0.3]) | st.floats(1e-6, 1), min_size=len(names), max_size=len(names))
    made = st.lists(row, min_size=1, max_size=4).map(lambda rows: np.array(rows, dtype=np.float32))
    return made.map(lambda scores: scores / scores.sum(axis=1, keepdims=True))


def test_an_i_follows_only_its_own_type_and_is_never_first():
    assert Labels(SMALL).follows.astype(int).tolist() == [
        [1, 1, 0, 1, 0],  # after O
        [1, 1, 1, 1, 0],  # after B-X
        [1, 1, 1, 1, 0],
        [1, 1, 0, 1, 1],  # after B-Y
        [1, 1, 0, 1, 1],
        [1, 1, 0, 1, 0],  # first of all
    ]


@pytest.mark.parametrize("names", [SMALL, ("I-X", "B-X", "O"), ("I-Y", "B-X", "O", "I-X", "B-Y")])
def test_the_likeliest_sequence_is_the_best_of_all_that_make_sense(names):
    follows = Labels(names).follows

    @settings(max_examples=200)
    @given(tables(names))
    def check(scores):
        found = likeliest_sequence(scores, follows)
        assert sensible([names[label] for label in found])
        product_found = scores.astype(np.float64)[np.arange(len(scores)), found].prod()
        assert product_found == pytest.approx(best_of_all(scores, names)[1], rel=1e-6)

    check()


@given(st.integers(0, 2**32), st.integers(5, 200))
def test_a_long_sequence_makes_sense_and_no_change_of_one_label_betters_it(seed, size):
    scores = np.random.default_rng(seed).dirichlet(np.full(len(SMALL), 0.3), size).astype(np.float32)
    found = likeliest_sequence(scores, Labels(SMALL).follows).tolist()
    assert sensible([SMALL[label] for label in found])
    for place, label in enumerate(found):
        for other in np.flatnonzero(scores[place] > scores[place, label]):
            assert not sensible([SMALL[i] for i in (*found[:place], other, *found[place + 1 :])])


@pytest.mark.parametrize("first", range(len(SMALL)))
@pytest.mark.parametrize("second", range(len(SMALL)))
def test_scores_of_nought_leave_a_sequence_that_makes_sense(first, second):
    scores = np.eye(len(SMALL), dtype=np.float32)[[first, second, first]]
    assert sensible([SMALL[label] for label in likeliest_sequence(scores, Labels(SMALL).follows)])


def test_no_words_have_no_labels():
    assert likeliest_sequence(np.zeros((0, len(SMALL)), dtype=np.float32), Labels(SMALL).follows).tolist() == []


@settings(max_examples=150)
@given(st.lists(st.lists(st.floats(-6, 6, width=32), min_size=len(SMALL), max_size=len(SMALL)), min_size=1, max_size=4))
def test_the_answer_is_the_entities_of_the_likeliest_sequence_with_the_mean_score_of_their_words(tokenizer, table):
    logits = np.array(table, dtype=np.float32) + 1e-3 * np.random.default_rng(0).random(
        (len(table), len(SMALL)), dtype=np.float32
    )
    task = Ner(SMALL, 64)
    windows = encode(tokenizer, "oslo " * len(logits))
    [output] = task.decode(windows, {"logits": [np.pad(logits, ((1, 1), (0, 0)))]}, [NerOptions()])
    scores = reference_softmax(logits.astype(np.float64), axis=1)
    chosen, _ = best_of_all(scores, SMALL)
    expected = tags.spans([SMALL[label] for label in chosen])
    assert [(entity.start, entity.end, entity.label) for entity in output.entities] == [
        (5 * start, 5 * end - 1, label) for start, end, label in expected
    ]
    means = [np.mean([scores[place, chosen[place]] for place in range(start, end)]) for start, end, _ in expected]
    assert [entity.score for entity in output.entities] == pytest.approx(means, abs=1e-6)


# --- differences ---------------------------------------------------------------------------------------------------------


def words_of(*pairs: tuple[str, float]) -> Entities:
    return Entities(entities=(), word_labels=tuple(label for label, _ in pairs), word_scores=tuple(score for _, score in pairs))


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ([("O", 0.9), ("B-PER", 0.8)], [("O", 0.9), ("B-PER", 0.8)], 0),
        ([("O", 0.9), ("B-PER", 0.8)], [("O", 0.85), ("B-PER", 0.7)], 0.1),
        ([("O", 0.505)], [("B-PER", 0.505)], 0.01),  # a close call
        ([("O", 0.9)], [("B-PER", 0.9)], 0.8),
        ([("O", 0.9)], [("B-PER", 0.6)], 0.5),
        ([("O", 0.34)], [("B-PER", 0.35)], 0.01),  # a close call among three
        ([("O", 0.9)], [("O", 0.9), ("O", 0.9)], np.inf),
        ([], [], 0),
    ],
)
def test_the_difference_is_the_change_of_scores_that_the_answers_prove(before, after, difference):
    task = Ner(LABELS, 32)
    assert task.difference(words_of(*before), words_of(*after)) == pytest.approx(difference)
    assert task.difference(words_of(*after), words_of(*before)) == pytest.approx(difference)


@given(st.integers(2, 7), st.integers(1, 12), st.integers(0, 2**32), st.floats(0, 0.3))
def test_the_difference_is_never_more_than_the_change_of_the_scores_themselves(size, count, seed, noise):
    source = np.random.default_rng(seed)
    first = source.dirichlet(np.full(size, 0.5), count)
    second = (1 - noise) * first + noise * source.dirichlet(np.full(size, 0.5), count)
    outputs = [words_of(*((LABELS[row.argmax()], float(row.max())) for row in scores)) for scores in (first, second)]
    assert Ner(LABELS, 32).difference(*outputs) <= np.abs(first - second).max() + 1e-9


def test_a_model_that_no_longer_finds_anything_differs_where_it_once_did(tokenizer):
    task = Ner(LABELS, 64)
    windows = encode(tokenizer, "clara went to oslo")
    outputs = []
    for scale in (5, -5):
        logits = scale * np.eye(len(LABELS), dtype=np.float32)[[0, 1, 0, 0, 3, 0]]
        outputs += task.decode(windows, {"logits": [logits]}, [NerOptions()])
    assert task.difference(*outputs) > 0.5


# --- scores --------------------------------------------------------------------------------------------------------------


@st.composite
def judged(draw: st.DrawFn) -> list[tuple[int, TokenSpans, TokenSpans]]:
    """Texts of single-word tokens with true entities and found ones, of which some are right."""
    texts = []
    for _ in range(draw(st.integers(1, 8))):
        size, truth = draw(marked())
        other_size, found = draw(marked())
        size = max(size, other_size, 1)
        texts.append((size, truth, draw(st.sampled_from([truth, found, truth[:1], []]))))
    return texts


def words(size: int) -> str:
    return " ".join(["w"] * size)


def row_of(size: int, spans: TokenSpans) -> NerExample:
    entities = [Span(start=2 * first, end=2 * after - 1, label=label) for first, after, label in spans]
    return NerExample(text=words(size), entities=entities)


def output_of(size: int, spans: TokenSpans) -> Entities:
    return Entities(
        entities=[
            Entity(label=span.label, score=0.9, start=span.start, end=span.end, word=words(size)[span.start : span.end])
            for span in row_of(size, spans).entities
        ],
        word_labels=(),
        word_scores=(),
    )


def score_of(texts: list[tuple[int, TokenSpans, TokenSpans]]) -> Any:
    outputs = [output_of(size, found) for size, _, found in texts]
    return Ner(LABELS, 32).score(outputs, [row_of(size, truth) for size, truth, _ in texts])


def report_of(texts: list[tuple[int, TokenSpans, TokenSpans]]) -> dict[str, dict[str, float]] | None:
    """seqeval's report; it has none for texts without entities on either side."""
    if not any(truth or found for _, truth, found in texts):
        return None
    sides = [[iob2(size, spans) for size, spans in side] for side in
             ([(size, truth) for size, truth, _ in texts], [(size, found) for size, _, found in texts])]  # fmt: skip
    report: dict[str, dict[str, float]] = classification_report(
        *sides, mode="strict", scheme=IOB2, zero_division=0, output_dict=True
    )
    return report


@settings(max_examples=120)
@given(judged())
def test_scores_are_the_strict_ones_of_seqeval(texts):
    metrics = score_of(texts).metrics
    report = report_of(texts)
    assert metrics["examples"] == len(texts)
    if report is None:
        assert (metrics["f1"], metrics["macro_f1"], metrics["support"]) == (0, 0, 0)
        return
    for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score"), ("support", "support")):
        assert metrics[ours] == pytest.approx(report["micro avg"][theirs])
        for label in report.keys() & set(TYPES):
            assert metrics["per_class"][label][ours] == pytest.approx(report[label][theirs])
    assert metrics["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])


@given(judged())
def test_perfect_answers_score_one_where_there_is_an_entity(texts):
    metrics = score_of([(size, truth, truth) for size, truth, _ in texts]).metrics
    some = any(truth for _, truth, _ in texts)
    assert (metrics["f1"], metrics["macro_f1"], metrics["accuracy"]) == (some, some, 1)


@pytest.mark.parametrize("wrong", [(1, 3, "LOC"), (1, 2, "PER"), (0, 3, "PER"), (1, 4, "PER"), (5, 6, "PER")])
def test_an_entity_counts_only_with_type_start_and_end_right(wrong):
    assert score_of([(6, [(1, 3, "PER")], [wrong])]).metrics["f1"] == 0


def test_accuracy_is_the_share_of_characters_with_the_right_type():
    # w w w w w, of which the entity has the second and third, and the answer the third and fourth
    assert score_of([(5, [(1, 3, "PER")], [(2, 4, "PER")])]).metrics["accuracy"] == pytest.approx(3 / 5)
    assert score_of([(5, [(1, 3, "PER")], [(1, 2, "PER"), (2, 3, "PER")])]).metrics["accuracy"] == 1


def test_a_type_that_the_version_does_not_know_counts_as_missed():
    score = Ner(("O", "B-LOC", "I-LOC"), 32).score([output_of(3, [(0, 1, "LOC")])], [row_of(3, [(0, 1, "LOC"), (2, 3, "NEW")])])
    assert score.metrics["f1"] == pytest.approx(2 / 3)
    assert score.metrics["per_class"]["NEW"] == {"f1": 0, "precision": 0, "recall": 0, "support": 1}
    assert score.metrics["labels"] == ["LOC", "NEW"]


def test_statistics_are_right_found_and_true_entities_of_each_row():
    truth = [(0, 1, "PER"), (1, 2, "PER")]
    score = score_of([(3, truth, truth[:1]), (3, [], truth), (2, [], [])])
    assert score.statistics.dtype == np.int32
    assert score.statistics.tolist() == [[1, 1, 2], [0, 2, 0], [0, 0, 0]]


def test_metrics_are_plain_values_that_json_takes():
    metrics = score_of([(3, [(0, 1, "PER")], [(1, 2, "LOC")])]).metrics
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


@given(judged())
def test_the_measured_metric_is_the_f1_of_the_score(texts):
    score = score_of(texts)
    assert Ner(LABELS, 32).measure(score.metrics, score.statistics).value() == score.metrics["f1"]


@settings(max_examples=40)
@given(judged(), st.integers(0, 2**32))
def test_the_measured_metric_of_repeated_rows_is_seqevals_f1_of_them(texts, seed):
    count = len(texts)
    score = score_of(texts)
    metric = Ner(LABELS, 32).measure(score.metrics, score.statistics)
    for times in np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=3):
        repeated = np.repeat(np.arange(count), times)
        report = report_of([texts[place] for place in repeated])
        assert metric.part(repeated).value() == pytest.approx(report["micro avg"]["f1-score"] if report else 0)


def test_the_measured_metric_counts_a_large_holdout_exactly():
    source = np.random.default_rng(0)
    true, wrong = source.poisson(3, 20_000), source.poisson(1, 20_000)
    right = source.binomial(true, 0.8)
    found = Ner(LABELS, 32).measure({}, np.stack([right, right + wrong, true], axis=1).astype(np.int32)).value()
    assert found == pytest.approx(2 * right.sum() / (right.sum() + wrong.sum() + true.sum()), abs=1e-15)


# --- texts and answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u00a0\u2003"])
def test_a_text_without_characters_is_refused(text):
    with pytest.raises(InvalidInput, match="inputs: text is empty; send at least one character that is not white space"):
        Ner.from_wire(text)
    with pytest.raises(ValidationError, match="text is empty"):
        NerInput(text=text)


def test_a_lone_surrogate_is_refused_with_its_place():
    with pytest.raises(InvalidInput, match="lone surrogate at character 2; send valid Unicode"):
        Ner.from_wire("ab\ud800c")


@pytest.mark.parametrize("value", [None, 7, ["x"], {"text": "x"}, b"x"])
def test_what_is_no_text_is_refused_with_its_type(value):
    with pytest.raises(InvalidInput, match=f"inputs: a text must be a string, not {type(value).__name__}"):
        Ner.from_wire(value)


@pytest.mark.parametrize("text", ["x", "ひらがな", "👩‍👩‍👧‍👦", "e\u0301", "\u202eשלום", "a\x00b"])
def test_any_other_text_is_taken_as_it_is(text):
    assert Ner.from_wire(text) == NerInput(text=text)


def test_the_answers_on_the_wire_are_those_of_the_hugging_face_client():
    word = Entity(label="PER", score=0.75, start=0, end=5, word="Clara")
    token = Entity(label="B-PER", score=0.75, start=0, end=5, word="Clara", index=1)
    output = Entities(entities=(word, token), word_labels=("B-PER",), word_scores=(0.75,))
    assert Ner.to_wire(output) == [
        {"entity_group": "PER", "score": 0.75, "word": "Clara", "start": 0, "end": 5},
        {"entity": "B-PER", "score": 0.75, "index": 1, "word": "Clara", "start": 0, "end": 5},
    ]


def test_samples_are_a_short_and_a_long_text_that_need_no_labels():
    short, long = Ner((), 128).samples()
    assert Ner((), 128).estimate_tokens(short) < 32 < Ner((), 128).estimate_tokens(long)
