"""Public data sets go through the tasks as they are. Skipped where they are not there: the project ships none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.config.base_models import find_base_model
from baton.predict.predictor import load_tokenizer
from baton.tasks import task_type
from baton.tasks.base import IGNORED
from training.data.sources import parse, read

DATA = Path(__file__).parents[3] / "shared" / "data"
FILES = {
    "banking77/train.jsonl": ("classification", 10_003),
    "wnut17/train.jsonl": ("ner", 3_394),
    "uner_zh_gsdsimp/train.jsonl": ("ner", 3_997),
    "squad/train_new_wiki.jsonl": ("qa", 7_938),
}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not beside this checkout")


@pytest.mark.parametrize(("file", "task", "count"), [(file, *about) for file, about in FILES.items()])
def test_every_row_of_a_public_data_set_is_taken(file, task, count):
    assert len(parse(task_type(task), {}, read(str(DATA / file), "train"), file)) == count


@pytest.mark.parametrize("file", ["wnut17/train.jsonl", "uner_zh_gsdsimp/train.jsonl"])
def test_entities_are_the_tokens_that_were_tagged(file):
    task_cls = task_type("ner")
    rows = list(read(str(DATA / file), "train"))
    for row, example in zip(rows, parse(task_cls, {}, rows, file), strict=True):
        tokens, tags = row.values["tokens"], row.values["tags"]
        expected: list[str] = []
        for token, tag in zip(tokens, tags, strict=True):
            if tag.startswith("B-"):
                expected.append(token)
            elif tag.startswith("I-"):
                expected[-1] += token
        found = [example.text[span.start : span.end].replace(" ", "") for span in example.entities]
        assert found == [entity.replace(" ", "") for entity in expected]


@pytest.mark.parametrize("file", ["wnut17/train.jsonl", "uner_zh_gsdsimp/train.jsonl"])
def test_nearly_every_entity_begins_and_ends_with_words_so_that_it_can_be_found(file):
    task_cls = task_type("ner")
    examples = parse(task_cls, {}, read(str(DATA / file), "train"), file)[:1500]
    task = task_cls(task_cls.labels_of(examples), 512)
    tokenizer = task.prepare_tokenizer(load_tokenizer(find_base_model("sentence-transformers/all-MiniLM-L6-v2"))[0])
    options = [task.Options()] * len(examples)
    windows = task.encode(tokenizer, [task.input_of(example) for example in examples], options)
    begun = sum(
        task.labels[target].startswith("B-")
        for targets in task.targets(examples, windows)
        for target in targets
        if target != IGNORED
    )
    assert begun >= 0.99 * sum(len(example.entities) for example in examples)
