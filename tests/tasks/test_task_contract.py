"""What every task promises to training, evaluation and serving, held against each task that there is.

A task that this file has no rows for fails: the promises are tested for new tasks, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baton.config.base_models import find_base_model
from baton.engines import EngineSettings, load_engine
from baton.engines.torch_engine import load_model
from baton.predict.predictor import Predictor, load_tokenizer
from baton.tasks import TASKS, AnyTask
from baton.tasks.base import IGNORED
from baton.tasks.windows import Windows
from baton.text.masks import masker
from tests.support.writers import build_tiny_writer
from training.data.sources import Row, parse

FILLER = "The quiet garden behind the yellow house was full of letters. "
LONG = FILLER * 12

ROWS: dict[str, list[dict[str, Any]]] = {
    "classification": [
        {"text": "my invoice is wrong", "label": "billing"},
        {"text": LONG + "my parcel is late", "label": "shipping"},
        {"text": "the app crashes", "text_pair": "and the login too", "label": "bug"},
        {"text": "שלום 😀 where is it", "label": "shipping"},
        {"text": "charged twice", "label": "billing"},
    ],
    "multi_label": [
        {"text": "my invoice is wrong and the app crashes", "label": ["billing", "bug"]},
        {"text": LONG, "label": ["shipping"]},
        {"text": "hello", "text_pair": "nothing to report", "label": []},
        {"text": "北京 😀", "label": ["billing"]},
    ],
    "ner": [
        {"text": "Clara met Omar in Lyon.", "entities": [(0, 5, "PER"), (10, 14, "PER"), (18, 22, "LOC")]},
        {"text": LONG + "Clara lives in New Lyon.", "entities": [(len(LONG), len(LONG) + 5, "PER"), (-9, -1, "LOC")]},
        {"tokens": ["我", "爱", "北京", "。"], "tags": ["O", "O", "B-LOC", "O"]},
        {"text": "nothing here\t\n", "entities": []},
        {"text": "Müller 😀 wrote", "entities": [(0, 6, "PER")]},
    ],
    "qa": [
        {"question": "How long?", "context": "It stays 45 days there.", "answer": "45 days"},
        {"question": "Who came?", "context": LONG + "Clara came alone.", "answer": "Clara"},
        {"question": "Who left?", "context": "Omar left. " + LONG, "answer": "Omar"},
        {"question": "在哪里?", "context": "他住在北京😀。", "answer": "北京"},
    ],
    "seq2seq": [
        {"source": "my invoice is wrong", "target": "a wrong invoice"},
        {"source": LONG + "my parcel is late", "target": ["letters and a parcel", "a late parcel"]},
        {"source": "北京 😀 is where it is", "target": "in a city"},
        {"source": "nothing\t\nelse", "target": "something"},
    ],
}


def row_of(task: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row as a data file would hold it; the table above writes spans and answers in short."""
    if "entities" in row:
        size = len(row["text"])
        spans = [{"start": start % size, "end": end % size, "label": label} for start, end, label in row["entities"]]
        return {**row, "entities": spans}
    if "answer" in row:
        answers = {"text": [row["answer"]], "answer_start": [row["context"].index(row["answer"])]}
        return {"question": row["question"], "context": row["context"], "answers": answers}
    return row


def examples_of(name: str) -> list[Any]:
    assert name in ROWS, f"rows for the task {name!r} are missing in this test"
    rows = [Row(where=f"row {number}", values=row_of(name, row)) for number, row in enumerate(ROWS[name])]
    return parse(TASKS[name], {}, rows, "the table")


def perfect(task: AnyTask, windows: Windows, examples: list[Any]) -> dict[str, list[Any]]:
    """Logits that say exactly what the targets ask for."""
    heads: dict[str, list[Any]] = {name: [] for name in task.heads}
    for ids, target in zip(windows.ids, task.targets(examples, windows), strict=True):
        if task.target == "class":
            heads["logits"].append(10.0 * np.eye(len(task.labels), dtype=np.float32)[target])
        elif task.target == "classes":
            heads["logits"].append(20 * np.array(target, dtype=np.float32) - 10)
        elif task.target == "text":
            heads["tokens"].append(np.array(target, dtype=np.float32))
        elif task.target == "tokens":
            known = [0 if label == IGNORED else label for label in target]
            heads["logits"].append(10.0 * np.eye(len(task.labels), dtype=np.float32)[known])
        else:
            for head, position in zip(task.heads, target, strict=True):
                heads[head].append(10.0 * np.eye(len(ids), dtype=np.float32)[position])
    return heads


@pytest.fixture(scope="module")
def bundled() -> Any:
    """A real tokenizer with a vocabulary for these rows, fresh for every task that sets it up its own way."""
    base = find_base_model("sentence-transformers/all-MiniLM-L6-v2")
    return lambda: load_tokenizer(base)[0]


@pytest.fixture(scope="module", params=sorted(TASKS))
def task_cls(request: pytest.FixtureRequest) -> type[AnyTask]:
    return TASKS[request.param]


@pytest.fixture(scope="module")
def saved(task_cls: type[AnyTask], tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of this task with random weights, saved as a version would be."""
    import torch
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp(task_cls.name)
    if task_cls.target == "text":
        return build_tiny_writer(directory, spread=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = load_model(task_cls.auto_model, tiny_base, task_cls.labels_of(examples_of(task_cls.name)))
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(directory)
    return directory


def predictor_of(task_cls: type[AnyTask], directory: Path, max_length: int, long_text: Any = None) -> Predictor:
    tokenizer, pad_id = load_tokenizer(directory)
    return Predictor(
        task=task_cls(task_cls.labels_of(examples_of(task_cls.name)), max_length, long_text=long_text),
        tokenizer=tokenizer,
        pad_id=pad_id,
        engine=load_engine(
            directory, task_cls.auto_model, task_cls.heads, EngineSettings(precision="fp32", device="cpu", threads=1)
        ),
        max_batch_tokens=4096,
    )


@pytest.mark.parametrize("max_length", [32, 64, 512])
def test_what_the_targets_say_is_what_the_outputs_say_and_scores_one(task_cls, bundled, max_length):
    examples = examples_of(task_cls.name)
    for long_text in task_cls.long_texts:
        task = task_cls(task_cls.labels_of(examples), max_length, long_text=long_text)
        options = [task.Options()] * len(examples)
        inputs = [task.input_of(example) for example in examples]
        windows = task.encode(task.prepare_tokenizer(bundled()), inputs, options)
        assert max(map(len, windows.ids)) <= max_length
        assert sorted(set(windows.owner)) == list(range(len(examples)))
        assert len(windows) == len(windows.type_ids) == len(windows.owner)
        outputs = task.decode(windows, perfect(task, windows, examples), options)
        assert task.score(outputs, examples).metrics[task.metric] == pytest.approx(1.0)


def test_the_measured_metric_is_that_of_the_score_and_with_a_row_twice_that_of_the_doubled_rows(task_cls, saved):
    examples = examples_of(task_cls.name)
    predictor = predictor_of(task_cls, saved, 128)
    task = predictor.task
    outputs = predictor.predict([task.input_of(example) for example in examples])
    score = task.score(outputs, examples)
    assert score.statistics.dtype == np.int32
    assert len(score.statistics) == len(examples)
    metric = task.measure(score.metrics, score.statistics)
    assert metric.value() == score.metrics[task.metric]
    doubled = metric.part(np.repeat(np.arange(len(examples)), [2, *[1] * (len(examples) - 1)]))
    again = task.score([outputs[0], *outputs], [examples[0], *examples])
    assert doubled.value() == pytest.approx(again.metrics[task.metric])


def test_a_row_alone_is_answered_as_in_a_large_batch(task_cls, saved):
    predictor = predictor_of(task_cls, saved, 128)
    inputs = [predictor.task.input_of(example) for example in examples_of(task_cls.name)] + predictor.task.samples()
    together = predictor.predict(inputs * 5)
    for item, output in zip(inputs * 5, together, strict=True):
        [alone] = predictor.predict([item])
        assert predictor.task.difference(alone, output) < 1e-4


def test_a_text_that_fits_is_answered_alike_by_every_window_size_and_every_way_with_long_texts(task_cls, saved):
    fitting = [example for example in examples_of(task_cls.name) if len(task_cls.content(example)) < 100]
    assert len(fitting) >= 2
    answers = []
    for max_length in (100, 128):
        for long_text in task_cls.long_texts:
            predictor = predictor_of(task_cls, saved, max_length, long_text)
            answers.append(predictor.predict([predictor.task.input_of(example) for example in fitting]))
    for other in answers[1:]:
        for expected, actual in zip(answers[0], other, strict=True):
            assert predictor.task.difference(expected, actual) < 1e-5


def test_long_texts_become_many_windows_or_are_cut_as_asked(task_cls, bundled):
    [item] = [task_cls(("a", "b"), 64).samples()[0]]
    long = type(item)(**{name: LONG if name in ("text", "context", "source") else value for name, value in dict(item).items()})
    for long_text in task_cls.long_texts:
        task = task_cls(task_cls.labels_of(examples_of(task_cls.name)), 64, long_text=long_text)
        windows = task.encode(task.prepare_tokenizer(bundled()), [long], [task.Options()])
        assert (len(windows) > 1) == (long_text == "windows")
        assert task.estimate_tokens(long) > 0


def test_examples_survive_being_frozen_as_json(task_cls):
    for example in examples_of(task_cls.name):
        assert task_cls.Example.model_validate_json(example.model_dump_json(exclude_none=True)) == example


def test_probes_survive_json_and_pass(task_cls, saved):
    predictor = predictor_of(task_cls, saved, 64)
    predictor.warm()
    probes = [type(probe).model_validate_json(probe.model_dump_json()) for probe in predictor.probe()]
    predictor.check(probes)


def test_answers_are_plain_json_values(task_cls, saved):
    from pydantic_core import from_json, to_json

    predictor = predictor_of(task_cls, saved, 64)
    for output in predictor.predict(predictor.task.samples()):
        wire = task_cls.to_wire(output)
        assert from_json(to_json(wire)) == wire


# --- the prediction log --------------------------------------------------------------------------------------------------


def test_a_summary_is_a_label_and_a_probability(task_cls, saved):
    predictor = predictor_of(task_cls, saved, 64)
    inputs = [predictor.task.input_of(example) for example in examples_of(task_cls.name)]
    for output in predictor.predict(inputs):
        label, confidence = predictor.task.summary(output, predictor.task.Options())
        assert isinstance(label, str)
        assert confidence is None or 0 <= confidence <= 1


def test_what_the_log_keeps_of_answers_scores_as_the_answers_do_after_a_way_through_json(task_cls, saved, bundled):
    examples = examples_of(task_cls.name)
    predictor = predictor_of(task_cls, saved, 128)
    task = predictor.task
    inputs = [task.input_of(example) for example in examples]
    guessed, right = predictor.predict(inputs), perfect_outputs(task, bundled, examples)
    for outputs in (guessed, right, [*right[:2], *guessed[2:]]):
        kept = [task.brief(output, item).model_dump_json() for output, item in zip(outputs, inputs, strict=True)]
        read = [task.Output.model_validate_json(output) for output in kept]
        assert task.score(read, examples).metrics[task.metric] == task.score(outputs, examples).metrics[task.metric]


def test_what_the_log_keeps_of_answers_takes_texts_from_the_masked_input_only(task_cls, bundled):
    examples = examples_of(task_cls.name)
    task = task_cls(task_cls.labels_of(examples), 512)
    inputs = [task.input_of(example) for example in examples]
    mask = masker(["(?s)."])
    for output, item in zip(perfect_outputs(task, bundled, examples), inputs, strict=True):
        kept = task.brief(mask(output), mask(item)).model_dump_json(exclude={"labels"})
        for name, value in item:
            words = value.split() if isinstance(value, str) and name != "text_pair" else []
            assert not [word for word in words if len(word) > 3 and word in kept]
        assert task.brief(task.brief(output, mask(item)), item) == task.brief(output, item)


def test_answers_to_the_usual_options_can_be_scored(task_cls):
    task = task_cls(task_cls.labels_of(examples_of(task_cls.name)), 64)
    assert task.scorable(task.Options())


@pytest.mark.parametrize(
    ("name", "options", "scorable"),
    [
        ("classification", {"top_k": 1}, True),
        ("classification", {"function_to_apply": "none"}, True),
        ("multi_label", {"top_k": 1}, False),
        ("multi_label", {"top_k": 3}, True),
        ("multi_label", {"function_to_apply": "softmax"}, True),
        ("ner", {"aggregation_strategy": "simple"}, True),
        ("ner", {"aggregation_strategy": "none"}, False),
        ("ner", {"ignore_labels": ["O", "PER"]}, False),
        ("ner", {"ignore_labels": []}, False),
        ("qa", {"top_k": 3}, True),
    ],
)
def test_answers_in_a_form_that_hides_something_are_not_scored(name, options, scorable):
    task = TASKS[name](("a", "b", "c"), 64)
    assert task.scorable(task.Options.model_validate(options)) is scorable


def test_scores_that_are_no_probabilities_are_no_confidence(tiny_base, tmp_path):
    for name in ("classification", "multi_label"):
        task = TASKS[name](("a", "b"), 64)
        logits = {"logits": [np.array([3.0, -2.0], dtype=np.float32)]}
        windows = Windows(inputs=[None], ids=[[1]], type_ids=[[0]], owner=[0])
        options = task.Options(function_to_apply="none")
        [output] = task.decode(windows, logits, [options])
        assert task.summary(output, options) == ("a", None)


def perfect_outputs(task: AnyTask, bundled: Any, examples: list[Any]) -> list[Any]:
    """What `perfect` logits decode to."""
    options = [task.Options()] * len(examples)
    windows = task.encode(task.prepare_tokenizer(bundled()), [task.input_of(example) for example in examples], options)
    return task.decode(windows, perfect(task, windows, examples), options)


def test_a_temperature_changes_scores_and_no_answer(task_cls, saved):
    """So it may be fitted on the rows that judge."""
    examples = examples_of(task_cls.name)
    predictor = predictor_of(task_cls, saved, 64)
    inputs = [predictor.task.input_of(example) for example in examples]
    options = [predictor.task.Options()] * len(inputs)
    windows, heads = predictor.logits(inputs)
    heads = {name: [row * 5 for row in rows] for name, rows in heads.items()}  # an untrained head is sure of nothing
    by_temperature = {}
    for temperature in (0.25, 1.0, 4.0):
        predictor.task.temperature = temperature
        by_temperature[temperature] = predictor.task.decode(windows, heads, options)
    for sharp, plain, flat in zip(*by_temperature.values(), strict=True):
        assert predictor.task.agree(sharp, plain)
        assert predictor.task.agree(flat, plain)
        surest = [max(predictor.task.confidences(one, options[0]), default=None) for one in (sharp, plain, flat)]
        if surest[1] is not None:
            assert surest[0] > surest[1] > surest[2]
    statistics = [predictor.task.score(outputs, examples).statistics for outputs in by_temperature.values()]
    assert np.array_equal(statistics[0], statistics[1])
    assert np.array_equal(statistics[2], statistics[1])


def test_each_scored_part_of_a_right_answer_is_right_and_of_a_wrong_one_is_not(task_cls, bundled):
    examples = examples_of(task_cls.name)
    task = task_cls(task_cls.labels_of(examples), 512)
    options = [task.Options()] * len(examples)
    windows = task.encode(task.prepare_tokenizer(bundled()), [task.input_of(example) for example in examples], options)
    outputs = task.decode(windows, perfect(task, windows, examples), options)
    parts = 0
    for output, example in zip(outputs, examples, strict=True):
        scores, right = task.confidences(output, options[0]), task.correct(output, example)
        assert len(scores) == len(right)
        assert all(0 <= score <= 1 for score in scores)
        assert all(right)
        parts += len(scores)
    assert parts >= len(task_cls.labels_of(examples)) / 2
    if not parts:  # the answers of this task have no scores
        return
    crossed = [task.correct(output, examples[number - 1]) for number, output in enumerate(outputs)]
    assert not all(all(right) for right in crossed)
