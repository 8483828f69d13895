"""Explanations: attributions of words that add up to the score, for every task that explains its answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from baton.engines import EngineSettings, load_engine
from baton.engines.onnx_export import export_fp32
from baton.engines.torch_engine import load_model
from baton.errors import InvalidInput
from baton.predict.explaining import EXACT_PARTS, ORDERS, PARTS, WINDOWS, Coalitions, draw_orders, group_words, passes
from baton.predict.predictor import Predictor, load_tokenizer
from baton.tasks import TASKS, AnyTask
from baton.tasks.ner_entities import NerOptions
from baton.tasks.text_classifier import ClassificationOptions
from tests.support.tiny import keyword_rows

TEXT = "my invoice from last week is what i write about, and the parcel too"
LABELS = {
    "classification": ("billing", "bug", "shipping"),
    "multi_label": ("billing", "bug", "shipping"),
    "ner": ("O", "B-LOC", "I-LOC", "B-PER", "I-PER"),
}


# --- Shapley values ------------------------------------------------------------------------------------------------------


def values_of(game: Any, coalitions: Coalitions) -> np.ndarray:
    return np.array([[game(seen)] for seen in coalitions])


def test_of_a_few_parts_the_values_are_shapleys_by_their_formula():
    def game(seen: frozenset[int]) -> float:  # two parts that only count together, one that counts alone, one that never does
        return 3.0 * ({0, 1} <= seen) - 1.5 * (2 in seen) + 0.25

    coalitions = Coalitions(4)
    assert len(coalitions) == 2**4
    baseline, added = coalitions.attributions(values_of(game, coalitions))
    assert baseline.tolist() == [0.25]
    assert added[:, 0].tolist() == pytest.approx([1.5, 1.5, -1.5, 0.0])


@pytest.mark.parametrize("parts", [0, 1, EXACT_PARTS, EXACT_PARTS + 1, 20, PARTS])
def test_the_values_add_up_whatever_the_number_of_parts_and_stay_within_the_budget(parts):
    rng = np.random.default_rng(parts)
    worth = rng.normal(size=max(parts, 1))
    coalitions = Coalitions(parts)
    assert len(coalitions) <= max(WINDOWS, 2**EXACT_PARTS)

    def game(seen: frozenset[int]) -> float:
        return math.tanh(sum(worth[part] for part in seen)) + (0.3 if len(seen) > parts / 2 else 0.0)

    baseline, added = coalitions.attributions(values_of(game, coalitions))
    assert baseline[0] + added.sum() == pytest.approx(game(frozenset(range(parts))))


def test_drawn_orders_come_with_their_reverse_and_are_the_same_every_time():
    orders = draw_orders(EXACT_PARTS + 1)
    assert len(orders) == ORDERS
    assert orders == draw_orders(EXACT_PARTS + 1)
    assert orders[1::2] == [order[::-1] for order in orders[::2]]
    assert all(sorted(order) == list(range(EXACT_PARTS + 1)) for order in orders)


def test_neighbours_of_long_texts_share_a_part_and_no_word_is_lost():
    words = [(5 * number, 5 * number + 4) for number in range(100)]
    parts = group_words(words)
    assert len(parts) <= PARTS
    assert (parts[0][0], parts[-1][1]) == (0, 499)
    assert all(start < end for start, end in parts)
    assert group_words(words[:PARTS]) == words[:PARTS]
    assert group_words([]) == []


# --- answers -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(LABELS))
def predictors(request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Predictor]:
    """A random model of a task behind each engine. Its weights are large, so that each word matters."""
    import torch
    from transformers import AutoTokenizer

    task_cls = TASKS[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = load_model(task_cls.auto_model, tiny_base, LABELS[request.param])
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(directory)
    export_fp32(directory, task_cls.auto_model, task_cls.heads, 128)
    return [predictor_of(task_cls, directory, library) for library in ("torch", "onnx")]


def predictor_of(task_cls: type[AnyTask], directory: Path, library: Any, max_length: int = 128) -> Predictor:
    tokenizer, pad_id = load_tokenizer(directory)
    settings = EngineSettings(library=library, precision="fp32", device="cpu", threads=1)
    return Predictor(
        task=tempered(task_cls(LABELS[task_cls.name], max_length)),
        tokenizer=tokenizer,
        pad_id=pad_id,
        engine=load_engine(directory, task_cls.auto_model, task_cls.heads, settings),
        max_batch_tokens=2048,
    )


def tempered(task: AnyTask) -> AnyTask:
    task.temperature = 1.7
    return task


def explained(predictor: Predictor, text: str) -> tuple[Any, list[tuple[float, Any]]]:
    """The answer to a text, and the score and the explanation of each of its explained parts."""
    task = predictor.task
    options = task.Options(explain=True)
    [output] = predictor.predict([task.from_wire(text)], [options])
    if task.name == "ner":
        return output, [(entity.score, entity.explanation) for entity in output.entities]
    sure = bool(task.confidences(output, options))
    return output, [(output.scores[0], output.explanation)] if sure else []


def test_what_the_words_add_sums_to_the_score_with_each_engine(predictors):
    rows = [row["text"] for row in keyword_rows(8, ("billing", "bug", "shipping"), seed=5)]
    count = 0
    for text in [TEXT, *rows, "Müller 😀 北京 wrote", "one"]:
        answers = [explained(predictor, text) for predictor in predictors]
        for (_, ours), (_, theirs) in [answers]:
            for (score, why), (_, other) in zip(ours, theirs, strict=True):
                count += 1
                assert why.baseline + sum(part.score for part in why.parts) == pytest.approx(score, abs=1e-5)
                assert [part.score for part in why.parts] == pytest.approx([part.score for part in other.parts], abs=1e-4)
                spoken = [text[part.start : part.end] for part in why.parts]
                assert " ".join(spoken).split() == " ".join(spoken).strip().split()
                assert "".join(spoken).replace(" ", "") == text.replace(" ", ""), "every character that is read has its part"
                assert np.ptp([part.score for part in why.parts]) > 1e-4 or len(why.parts) == 1
    assert count > 3


def test_an_explained_answer_is_the_same_answer(predictors):
    predictor = predictors[1]
    task = predictor.task
    item = task.from_wire(TEXT)
    plain, other, why = predictor.predict(
        [item, task.from_wire("hello"), item], [task.Options(), task.Options(), task.Options(explain=True)]
    )
    assert task.agree(plain, why)
    assert task.difference(plain, why) < 1e-6
    assert "explanation" not in str(task.to_wire(plain)) + str(task.to_wire(other))
    assert task.to_wire(task.brief(why, item)) == task.to_wire(task.brief(plain, item)), "the log keeps no explanations"


class Counting:
    """An engine whose logit for "billing" is the sum of what each token that it sees is worth; the others are 0."""

    description, overhead_tokens, max_rows, length_step = "counting", 10, None, 1

    def __init__(self, worth: dict[int, float]) -> None:
        self._worth = worth

    def forward(self, batch: Any) -> Any:
        worth = np.vectorize(lambda token: self._worth.get(token, 0.0))(batch["input_ids"])
        logits = np.zeros((len(worth), 3), dtype=np.float32)
        logits[:, 0] = (worth * batch["attention_mask"]).sum(axis=1)
        return {"logits": logits}

    def limit_threads(self, threads: int) -> None: ...


def test_a_word_that_speaks_for_the_answer_is_told_from_one_that_speaks_against_it(tiny_base):
    tokenizer, pad_id = load_tokenizer(tiny_base)
    worth = {"invoice": 3.0, "week": 1.0, "parcel": -2.0}
    engine = Counting({tokenizer.token_to_id(word): value for word, value in worth.items()})
    assert None not in engine._worth, "or the words are several tokens"
    task = TASKS["classification"](LABELS["classification"], 128)
    predictor = Predictor(task=task, tokenizer=tokenizer, pad_id=pad_id, engine=engine, max_batch_tokens=2048)
    output, [(score, why)] = explained(predictor, TEXT)
    assert output.label == "billing"
    assert why.baseline == pytest.approx(1 / 3), "it knows nothing without words"
    added = {TEXT[part.start : part.end]: part.score for part in why.parts}
    assert added["invoice"] > added["week"] > 0 > added["parcel"]
    assert all(value == pytest.approx(0.0, abs=1e-9) for word, value in added.items() if word not in worth)
    assert why.baseline + sum(added.values()) == pytest.approx(score)


def test_white_space_before_the_first_word_belongs_to_it():
    """Tokenizers of bytes make tokens of white space; one that no part owns would be hidden from every set of words."""
    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine = Counting({alphabet["\u0120"]: 0.5, alphabet["a"]: 1.0, alphabet["d"]: -0.5})
    task = TASKS["classification"](LABELS["classification"], 128)
    predictor = Predictor(task=task, tokenizer=tokenizer, pad_id=0, engine=engine, max_batch_tokens=2048)
    for text in ("  ab cd", "\n\tab cd ", " a"):
        _, [(score, why)] = explained(predictor, text)
        assert why.baseline + sum(part.score for part in why.parts) == pytest.approx(score)


@pytest.mark.parametrize("predictors", ["ner"], indirect=True)
def test_entities_of_words_outside_are_explained_when_they_are_asked_for(predictors):
    predictor = predictors[1]
    options = predictor.task.Options(explain=True, ignore_labels=())
    [output] = predictor.predict([predictor.task.from_wire(TEXT)], [options])
    assert "O" in {entity.label for entity in output.entities}
    for entity in output.entities:
        assert entity.explanation is not None
        total = entity.explanation.baseline + sum(part.score for part in entity.explanation.parts)
        assert total == pytest.approx(entity.score, abs=1e-5)


def test_each_explanation_is_told_with_the_place_that_it_is_about(predictors):
    predictor = predictors[1]
    task = predictor.task
    [output] = predictor.predict([task.from_wire(TEXT)], [task.explaining()])
    found = task.explanations_of(output)
    if task.name != "ner":
        assert found == [(None, output.explanation)]
        return
    entities = sorted(output.entities, key=lambda entity: entity.score)
    assert len(entities) > 1
    assert [place for place, _ in found] == [(it.start, it.end, it.label) for it in entities]
    assert [why for _, why in found] == [it.explanation for it in entities]


def test_a_step_is_one_pass_of_no_more_than_the_budget(predictors):
    predictor = predictors[0]
    task = predictor.task
    widest: list[int] = []
    forward = predictor.engine.forward

    class Watched:
        max_rows = predictor.engine.max_rows

        def forward(self, batch: Any) -> Any:
            widest.append(batch["input_ids"].size)
            return forward(batch)

    engine, predictor.engine = predictor.engine, Watched()  # type: ignore[assignment]
    try:
        *steps, outputs = predictor.steps([task.from_wire(TEXT)], [task.Options(explain=True)], budget=200)
    finally:
        predictor.engine = engine
    assert outputs is not None
    assert len(steps) == len(widest) + 1, "tokenizing is a step, too"
    assert max(widest) <= 200
    assert sum(widest) <= passes(task, task.Options(explain=True)) * (len(TEXT.split()) + 12)


def test_a_text_that_needs_several_windows_is_not_explained(predictors, tmp_path):
    predictor = predictors[0]
    task = predictor.task
    task.long_text = "windows"
    try:
        with pytest.raises(InvalidInput, match=r"explain: the text has more than the 128 tokens"):
            explained(predictor, "my invoice about Clara in Lyon " * 60)
    finally:
        task.long_text = task.long_texts[0]


# --- options -------------------------------------------------------------------------------------------------------------


def test_only_scores_that_are_probabilities_are_explained():
    with pytest.raises(ValueError, match=r"explain is not for function_to_apply 'none'; allowed: softmax"):
        ClassificationOptions(explain=True, function_to_apply="none")
    with pytest.raises(ValueError, match=r"explain is not for aggregation_strategy 'simple'; allowed: words"):
        NerOptions(explain=True, aggregation_strategy="simple")
    task = TASKS["classification"](("a", "b"), 32)
    with pytest.raises(InvalidInput, match="pairs of texts are not explained"):
        task.words(task.from_wire({"text": "a", "text_pair": "b"}))
    assert passes(task, ClassificationOptions()) == 1
    assert passes(task, ClassificationOptions(explain=True)) > WINDOWS
