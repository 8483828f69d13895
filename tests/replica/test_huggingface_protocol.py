"""The Hugging Face dialect: every shape that its clients send, and what the mistaken ones are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from baton.errors import InvalidInput, MalformedRequest, Overloaded
from baton.tasks.classification import Classification
from baton.tasks.text_classifier import ClassificationOptions, LabelScores, TextInput
from services.replica.protocols import huggingface
from services.replica.protocols.huggingface import Request

MOST = 4
OUTPUT = LabelScores(labels=("good", "bad"), scores=(0.75, 0.25))
WIRE = [{"label": "good", "score": 0.75}, {"label": "bad", "score": 0.25}]


def parse(content: Any) -> Request:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return huggingface.parse(body, Classification, MOST)


def refused(content: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        parse(content)
    return str(caught.value)


# --- requests ------------------------------------------------------------------------------------------------------------


def test_a_text_is_one_input_with_default_options():
    request = parse({"inputs": "I like you"})
    assert request.inputs == [TextInput(text="I like you")]
    assert request.options == [ClassificationOptions(top_k=None, function_to_apply="softmax")]
    assert request.single


@pytest.mark.parametrize("texts", [["a"], ["a", "b"], ["a", "a", "c", "d"]])
def test_a_list_is_as_many_inputs_in_its_order(texts):
    request = parse({"inputs": texts})
    assert [item.text for item in request.inputs] == texts
    assert len(request.options) == len(texts)
    assert not request.single


@pytest.mark.parametrize(
    "parameters", [{}, None, {"top_k": None}, {"function_to_apply": None}, {"function_to_apply": "softmax"}]
)
def test_empty_parameters_mean_the_defaults(parameters):
    assert parse({"inputs": "a", "parameters": parameters}).options == [ClassificationOptions()]


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_parameters_reach_every_input(function):
    request = parse({"inputs": ["a", "b"], "parameters": {"top_k": 2, "function_to_apply": function}})
    assert request.options == [ClassificationOptions(top_k=2, function_to_apply=function)] * 2


@pytest.mark.parametrize("options", [{}, None, {"wait_for_model": True, "use_cache": False}, "anything"])
def test_options_of_the_hub_are_ignored(options):
    assert parse({"inputs": "a", "options": options}) == parse({"inputs": "a"})


@pytest.mark.parametrize("text", ["日本語 😀", "tab\tnew\nline", "\x00", "[CLS] </s>", "a" * 100_000])
def test_any_text_arrives_as_it_was_sent(text):
    assert parse({"inputs": text}).inputs[0].text == text
    assert parse(json.dumps({"inputs": text}, ensure_ascii=False).encode()).inputs[0].text == text


# --- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"inputs=a",
        b'{"inputs": "a"',
        b'{"inputs": "a",}',
        b"{'inputs': 'a'}",
        b'{"inputs": "caf\xe9"}',
        b"[" * 10_000,
    ],
)
def test_a_body_that_is_not_json_is_malformed(body):
    with pytest.raises(MalformedRequest, match=r"^the body is not valid JSON: ") as caught:
        parse(body)
    assert caught.value.status == 400


@pytest.mark.parametrize("content", [["a"], "a", 7, None, True])
def test_a_body_that_is_no_object_is_malformed_and_told_an_example(content):
    with pytest.raises(MalformedRequest, match=r'must be a JSON object, for example \{"inputs": "I like you"\}'):
        parse(content)


def test_an_unknown_key_is_told_with_the_allowed_ones():
    assert refused({"inputs": "a", "parameter": {}}) == "unknown key 'parameter'; allowed: inputs, parameters, options"


def test_missing_inputs_are_told_with_an_example():
    assert refused({"parameters": {}}) == 'the key "inputs" is missing; example: {"inputs": "I like you"}'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, "inputs: a text must be a string, not int (7)"),
        (None, "inputs: a text must be a string, not NoneType (None)"),
        (True, "inputs: a text must be a string, not bool (True)"),
        ({"text": 7}, "inputs.text: 7 is not allowed; input should be a valid string; allowed: text, text_pair"),
        (["a", 7], "inputs[1]: a text must be a string, not int (7)"),
        ([["a"]], "inputs[0]: a text must be a string, not list (['a'])"),
        ([None], "inputs[0]: a text must be a string, not NoneType (None)"),
    ],
)
def test_an_input_that_is_no_text_is_told_with_its_type_and_value(value, expected):
    assert refused({"inputs": value}) == expected


@pytest.mark.parametrize("value", ["", " ", "\n\t", "\u00a0"])
def test_an_empty_text_is_told_what_to_send(value):
    assert refused({"inputs": value}) == "inputs: text is empty; send at least one character that is not white space"


def test_the_wrong_one_of_a_list_is_named():
    assert refused({"inputs": ["a", "", "b"]}).startswith("inputs[1]: text is empty")
    assert refused({"inputs": ["a", {"text": 7}]}).startswith(
        "inputs[1].text: 7 is not allowed; input should be a valid string"
    )


def test_a_long_value_is_cut_short_in_the_message():
    assert len(refused({"inputs": [list(range(1000))]})) < 150


@pytest.mark.parametrize("body", [rb'{"inputs": "a\ud800"}', rb'{"inputs": ["a", "\udc00b"]}'])
def test_a_lone_surrogate_is_refused_before_it_reaches_a_tokenizer(body):
    with pytest.raises((MalformedRequest, InvalidInput), match=r"surrogate|hex escape"):
        parse(body)


def test_a_pair_of_surrogates_is_one_character():
    assert parse(rb'{"inputs": "\ud83d\ude00"}').inputs[0].text == "😀"


@pytest.mark.parametrize("count", [0, MOST + 1, 1000])
def test_too_few_and_too_many_inputs_are_told_with_the_limits(count):
    assert refused({"inputs": ["a"] * count}) == f"inputs: a list of 1 to {MOST} inputs is allowed, this one has {count}"


def test_as_many_inputs_as_allowed_are_taken():
    assert len(parse({"inputs": ["a"] * MOST}).inputs) == MOST


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"topk": 2}, "parameters.topk: unknown; parameters: top_k, function_to_apply"),
        ({"top_k": 0}, "parameters.top_k: 0 is not allowed; at least 1"),
        ({"top_k": -1}, "parameters.top_k: -1 is not allowed; at least 1"),
        (
            {"top_k": "many"},
            "parameters.top_k: 'many' is not allowed; input should be a valid integer, unable to parse string as an integer",
        ),
        ({"top_k": 1.5}, "parameters.top_k: 1.5 is not allowed; input should be a valid integer"),
        (
            {"function_to_apply": "tanh"},
            "parameters.function_to_apply: 'tanh' is not allowed; input should be 'softmax', 'sigmoid' or 'none'",
        ),
        ("softmax", "parameters: a JSON object is expected, not str"),
        ([], "parameters: a JSON object is expected, not list"),
        (3, "parameters: a JSON object is expected, not int"),
    ],
)
def test_a_bad_parameter_is_told_with_what_is_allowed(parameters, expected):
    assert expected in refused({"inputs": "a", "parameters": parameters})


# --- answers -------------------------------------------------------------------------------------------------------------


def test_the_answer_to_a_single_text_is_nested_as_to_a_list_of_one():
    for single in (True, False):
        assert json.loads(huggingface.render([OUTPUT], Classification, single)) == [WIRE]


def test_the_answer_to_a_list_is_a_list_of_the_same_length():
    other = LabelScores(labels=("bad",), scores=(1.0,))
    answer = json.loads(huggingface.render([OUTPUT, other, OUTPUT], Classification, False))
    assert answer == [WIRE, [{"label": "bad", "score": 1.0}], WIRE]


def test_labels_in_any_script_are_answered_as_they_are():
    output = LabelScores(labels=("配送 \u2028😀",), scores=(1.0,))
    assert json.loads(huggingface.render([output], Classification, True))[0][0]["label"] == "配送 \u2028😀"


def test_an_error_is_one_key_with_its_message():
    assert json.loads(huggingface.render_error(Overloaded('"full"\n'))) == {"error": '"full"\n'}


def test_the_answer_is_what_the_hubs_own_client_reads():
    from huggingface_hub import TextClassificationOutputElement

    body = huggingface.render([OUTPUT], Classification, True)
    read = TextClassificationOutputElement.parse_obj_as_list(json.loads(body)[0])  # as InferenceClient.text_classification
    assert [(element.label, element.score) for element in read] == [("good", 0.75), ("bad", 0.25)]
