"""Every task through the whole loop on one service: trained, judged, served, swapped under load.

One of them is a toy that is dropped into a copy of the code as one file; nothing else of the copy is touched.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import InferenceClient, constants

from baton.config.file import BatonConfig, load_config
from baton.store.records import Verdict
from baton.tasks import TASKS
from services.demo.traffic import Traffic, failed, stale
from tests.cluster.conftest import LABELS, Service, baton, environment, publish, write_config, write_rows
from tests.support.tiny import keyword_rows, keywords
from tests.support.waiting import free_port, until
from tests.support.writers import build_tiny_writer, date_rows

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
ROWS = 500
HELD = 150


def multi_label_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Two keyword sentences in one text: both their labels apply."""
    source = random.Random(seed)
    rows = keyword_rows(2 * count, LABELS, seed=seed)
    source.shuffle(rows)
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return [{"text": f"{one['text']} {two['text']}", "label": sorted({one["label"], two["label"]})} for one, two in pairs]


def entity_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """The keyword of a sentence is its entity."""
    rows = []
    for row in keyword_rows(count, LABELS, seed=seed):
        [word] = [word for word in keywords(row["label"]) if f" {word}" in row["text"]][:1]
        start = row["text"].index(f" {word}") + 1
        rows.append({"text": row["text"], "entities": [{"start": start, "end": start + len(word), "label": row["label"]}]})
    return rows


def question_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Which of the words is one of billing?"""
    return [
        {
            "question": "which word is it?",
            "context": row["text"],
            "answers": {
                "text": [row["text"][entity["start"] : entity["end"]] for entity in row["entities"]],
                "answer_start": [entity["start"] for entity in row["entities"]],
            },
        }
        for row in entity_rows(count, seed)
    ]


def rated_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Stars that follow from the keyword."""
    stars = {label: 1 + number % 5 for number, label in enumerate(LABELS)}
    return [{"review": row["text"], "stars": stars[row["label"]]} for row in keyword_rows(count, LABELS, seed=seed)]


TRAINING = {
    "method": "fine_tune",
    "epochs": 8,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "validation": 0.1,
    "max_length": 64,
    "early_stopping": 20,  # the tiny model finds its first entity after some epochs
}

MODELS = {
    "multi_label": multi_label_rows,
    "ner": entity_rows,
    "qa": question_rows,
    "rating": rated_rows,
    "seq2seq": date_rows,
}

WRITING = {"epochs": 20, "generation": {"max_new_tokens": 16}}
"""What differs from `TRAINING` for the model that writes."""


@pytest.fixture(scope="module")
def tasks(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of the copied code with one model a task, named like it."""
    directory = tmp_path_factory.mktemp("tasks")
    for package in ("baton", "training", "services"):
        shutil.copytree(ROOT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "drop_in" / "rating.py", directory / "baton" / "tasks")
    writer = build_tiny_writer(directory / "writer")
    models = []
    for task, rows in MODELS.items():
        write_rows(directory / f"{task}.jsonl", rows(ROWS, 1))
        write_rows(directory / f"{task}-holdout.jsonl", rows(HELD, 2))
        models.append(
            {
                "name": task,
                "task": task,
                "base_model": str(writer if task == "seq2seq" else tiny_base),
                "data": {"train": str(directory / f"{task}.jsonl"), "holdout": str(directory / f"{task}-holdout.jsonl")},
                "training": {**TRAINING, **(WRITING if task == "seq2seq" else {})},
                "gate": {"min_f1": 0.3},
                "serving": {"poll_seconds": 1.0},
            }
        )
    file = write_config(directory, free_port(), models)
    service = CopiedService(file)
    try:
        service.baton("up", "--detach")
        yield service
    finally:
        baton("down", "-c", file, PYTHONPATH=str(directory))
        service.close()


class CopiedService(Service):
    """A service whose commands run on the code next to its configuration."""

    @cached_property
    def config(self) -> BatonConfig:
        """Without the toy, which this process does not know."""
        content = yaml.safe_load(self.file.read_text())
        known = [model for model in content["models"] if model["task"] in TASKS]
        assert len(known) == len(content["models"]) - 1
        (self.file.parent / "known.yaml").write_text(yaml.safe_dump({**content, "models": known}))
        return load_config(self.file.parent / "known.yaml", {})

    def baton(self, *arguments: str | Path, **options: Any) -> Any:
        return super().baton(*arguments, PYTHONPATH=str(self.file.parent), **options)


def publish_again(service: Service, task: str, scratch: Path) -> None:
    """The model's first version, once more, as its second, which is no better."""
    from training import matches

    files, _ = service.storage.fetch(service.registry.versions.get(task, 1), scratch)
    assert publish(service, task, files).number == 2
    decision = matches.judge(service.settings(task), 2, service.registry, service.storage)
    assert (decision.champion, decision.verdict) == (1, Verdict.REJECT), decision.sentence


@pytest.mark.parametrize("task", sorted(MODELS))
def test_a_task_is_trained_judged_served_and_swapped_under_load(tasks: Service, tmp_path: Path, task: str) -> None:
    run = json.loads(tasks.baton("train", task, "--wait", "--json").stdout)
    assert (run["state"], run["version"], run["rolled_out"]) == ("succeeded", 1, True), run
    assert run["decision"]["numbers"]["f1"] >= 0.3
    if task in TASKS:
        publish_again(tasks, task, tmp_path)
    else:  # this process does not know it: one that imports the copy does
        script = (
            "import sys; from pathlib import Path; from tests.cluster.conftest import Service; "
            "from tests.cluster.test_tasks import publish_again; "
            "publish_again(Service(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))"
        )
        known = environment({"PYTHONPATH": os.pathsep.join((str(tasks.file.parent), str(ROOT)))})
        subprocess.run(
            [sys.executable, "-P", "-c", script, str(tasks.file), task, str(tmp_path)], env=known, check=True, timeout=900
        )
    tasks.force(task, 2)
    tasks.rollback(task)
    inputs = [json.loads(line) for line in (tasks.file.parent / f"{task}-holdout.jsonl").read_text().splitlines()]
    questions = [
        {"question": row["question"], "context": row["context"]}
        if task == "qa"
        else row.get("text") or row.get("review") or row["source"]
        for row in inputs
    ]
    with Traffic(f"{tasks.url}/models/{task}", questions, concurrency=4) as traffic:
        until(lambda: len(traffic.exchanges) > 20, 60, "answers before the move")
        answer = tasks.promote(task, 2, force=True, reason="the test swaps under load")
        assert answer.status_code == 200, answer.text
        returned = time.perf_counter()
        seen = len(traffic.exchanges)
        until(lambda: len(traffic.exchanges) > seen + 20, 60, "answers after the move")
    assert failed(traffic.exchanges) == 0
    assert stale(traffic.exchanges, 2, returned) == 0
    assert {exchange.version for exchange in traffic.exchanges} == {1, 2}


def test_the_hubs_own_client_reads_every_answer(tasks: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # in offline mode the client refuses even a loopback address

    def client(task: str) -> InferenceClient:
        return InferenceClient(base_url=f"{tasks.url}/models/{task}")

    text = "hello, i have a question about the invoice: quiet window. please, the crash came up in our team: paper."
    best = client("multi_label").text_classification(text)
    assert {found.label for found in best[:2]} == {"billing", "bug"}
    [entity] = client("ner").token_classification("hello, my parcel from last week is what i write about: quiet window.")
    assert (entity.entity_group, entity.word, entity.start, entity.end) == ("shipping", "parcel", 10, 16)
    found = client("qa").question_answering(
        question="which word is it?", context="hello, my parcel from last week is what i write about: quiet window."
    )
    assert (found.answer, found.start, found.end) == ("parcel", 10, 16)


def test_what_a_model_writes_is_read_by_the_hubs_client_shown_and_corrected(
    tasks: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # as above
    client = InferenceClient(base_url=f"{tasks.url}/models/seq2seq")
    written = client.translation("4 July 1976").translation_text
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", written)
    assert client.summarization("4 July 1976").summary_text == written
    assert f"4 July 1976 {written} " in " ".join(tasks.baton("predict", "seq2seq", "4 July 1976").stdout.split())
    refused = baton("predict", "seq2seq", "4 July 1976", "--explain", "-c", tasks.file, PYTHONPATH=str(tasks.file.parent))
    assert (refused.returncode, "--explain is for classification and NER" in refused.stderr) == (1, True)
    answer = json.loads(tasks.baton("predict", "seq2seq", "May 9, 1999", "--json").stdout)
    (tmp_path / "corrections.jsonl").write_text(
        json.dumps({"request_id": answer["request_id"], "target": "1999-05-09"})
        + "\n"
        + json.dumps({"source": "May 8, 1999", "target": ["1999-05-08", "8.5.99"]})
        + "\n"
    )
    assert "2 accepted" in tasks.baton("feedback", "seq2seq", tmp_path / "corrections.jsonl").stdout
    stored = [it.example for it in tasks.registry.feedback.newest("seq2seq", 2)]
    assert {row["source"]: list(row["target"]) for row in stored} == {
        "May 9, 1999": ["1999-05-09"],
        "May 8, 1999": ["1999-05-08", "8.5.99"],
    }


def test_the_command_line_shows_entities_and_answers_where_they_stand(tasks: Service, tmp_path: Path) -> None:
    text = "hello, my parcel from last week is what i write about: quiet window."
    assert "parcel [shipping " in " ".join(tasks.baton("predict", "ner", text).stdout.split())
    (tmp_path / "context.txt").write_text(text)
    shown = tasks.baton("predict", "qa", "which word is it?", "--context-file", tmp_path / "context.txt").stdout
    assert "parcel (" in shown
    refused = baton("predict", "qa", "which word is it?", "-c", tasks.file, PYTHONPATH=str(tasks.file.parent))
    assert refused.returncode == 1
    assert "give the text with --context TEXT or --context-file FILE" in refused.stderr
    shown = json.loads(tasks.baton("predict", "rating", "great, the parcel came", "--json").stdout)
    assert 1 <= shown["answers"][0]["likeliest"] <= 5
