"""Models, data and services of the benchmarks. A service runs in a temporary directory, on a free port, until the end."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from services.client import Client

MODEL = "benchmark"
BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

TRAIN_QUESTIONS, TEST_QUESTIONS, QUESTIONS_SEED = 3000, 1000, 0
"""Size of the random part of SQuAD that a run on two cores can finish, and its seed."""

MAX_ANSWER_TOKENS = 30
"""Maximum length of an answer in the plain script: the default of Hugging Face's example script `run_qa.py`."""

LABELS = 77
"""Of models that are not trained, only served."""

EVERY_ROW = "Both train on every row and take the last epoch (Baton: validation 0; it leaves repeated rows out)."


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training settings, by their names in `baton.yaml`. Baton and the plain script both use them."""

    epochs: int
    batch_size: int
    max_length: int
    stride: int | None = None
    learning_rate: float = 2.0e-4
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """How training is measured for one task."""

    recipe: Recipe
    plain: str
    """The module that trains without Baton."""
    metrics: Mapping[str, str]
    """Names in the results of the metrics that both report, by key."""
    note: str
    """Remarks in the results."""
    validation: float | None = None
    """Baton's `training.validation`; None for its default."""


SUBJECTS: Mapping[str, Subject] = {
    "classification": Subject(
        recipe=Recipe(epochs=3, batch_size=32, max_length=128),
        plain="benchmarks.plain.trainer",
        metrics={"f1": "macro-F1"},
        validation=0,
        note=f"Longer texts are cut. {EVERY_ROW}",
    ),
    "ner": Subject(
        recipe=Recipe(epochs=5, batch_size=32, max_length=128),
        plain="benchmarks.plain.ner",
        metrics={"f1": "entity F1"},
        validation=0,
        note="Entity F1 is micro and strict: type, start and end must agree. Plain is given the words, predicts a tag from\n"
        "each given word's first sub-word and cuts longer rows. Baton is given the joined text and finds the words itself.\n"
        + EVERY_ROW,
    ),
    "qa": Subject(
        recipe=Recipe(epochs=2, batch_size=16, max_length=384, stride=128),
        plain="benchmarks.plain.qa",
        metrics={"f1": "F1", "exact_match": "exact match"},
        note=f"Data: {TRAIN_QUESTIONS:,} random rows to train on and {TEST_QUESTIONS:,} to score by, or all where there are\n"
        f"fewer (seed {QUESTIONS_SEED}), the same files for both. F1 and exact match are SQuAD v1.1's. Plain answers with at\n"
        f"most {MAX_ANSWER_TOKENS} tokens, Baton with at most 15, its default.",
    ),
}
"""By name of the task in `baton.yaml`."""


def train_of(data: Path) -> Path:
    """Return the training file in ``data``: ``train.jsonl``, or the SquadShifts file ``train_new_wiki.jsonl``."""
    return _first(data, "train.jsonl", "train_new_wiki.jsonl")


def holdout_of(data: Path) -> Path:
    """Return the test file in ``data``: ``test.jsonl`` or ``holdout.jsonl``."""
    return _first(data, "test.jsonl", "holdout.jsonl")


def _first(data: Path, *names: str) -> Path:
    for name in names:
        if (data / name).is_file():
            return data / name
    raise FileNotFoundError(f"{data} contains neither {' nor '.join(names)}; one of them is needed")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]  # of bytes: str.splitlines() splits at U+2028, too


def draw_questions(data: Path, folder: Path) -> Path:
    """Write a random sample of ``data``, in SQuAD's form, to ``folder`` as train.jsonl and test.jsonl. Return ``folder``.

    References that are not in the context at their ``answer_start`` are left out, because Baton refuses them; some starts of
    the test rows are inferred. Rows without any reference are left out, because SQuAD v1.1 has no score for them.
    """
    folder.mkdir()
    for path, name, count in (
        (train_of(data), "train.jsonl", TRAIN_QUESTIONS),
        (holdout_of(data), "test.jsonl", TEST_QUESTIONS),
    ):
        rows = [row for row in map(_with_valid_references, read_rows(path)) if row["answers"]["text"]]
        drawn = random.Random(QUESTIONS_SEED).sample(rows, min(count, len(rows)))
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in drawn), encoding="utf-8")
    return folder


def _with_valid_references(row: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
    found = [(text, start) for text, start in pairs if row["context"][start : start + len(text)] == text]
    return {**row, "answers": {"text": [text for text, _ in found], "answer_start": [start for _, start in found]}}


def save_model(directory: Path, seed: int = 0) -> Path:
    """Write the base model with a random head of 77 labels: its answers mean nothing, and take as long as any."""
    code = (
        "import sys, torch, transformers\n"
        "from baton.config.base_models import find_base_model\n"
        "torch.manual_seed(int(sys.argv[4]))\n"
        "base = find_base_model(sys.argv[1])\n"
        "transformers.AutoTokenizer.from_pretrained(base).save_pretrained(sys.argv[2])\n"
        "model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=int(sys.argv[3]))\n"
        "model.config.id2label = {number: f'label {number}' for number in range(model.config.num_labels)}\n"
        "model.config.label2id = {label: number for number, label in model.config.id2label.items()}\n"
        "model.save_pretrained(sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, BASE_MODEL, str(directory), str(LABELS), str(seed)]
    subprocess.run(command, check=True, capture_output=True)
    return directory


def write_rows(home: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Write rows of the labels of `save_model` to ``home``, and return the settings of a model that has them as its data.

    Registered versions then have all engines, and are judged on the last hundred texts. None passes: benchmarks force them.
    """
    rows = [json.dumps({"text": text, "label": f"label {number % LABELS}"}) for number, text in enumerate(texts)]
    data = {"train": home / "train.jsonl", "holdout": home / "holdout.jsonl"}
    data["train"].write_text("\n".join(rows[:-100]))
    data["holdout"].write_text("\n".join(rows[-100:]))
    return {"task": "classification", "data": {name: str(path) for name, path in data.items()}, "gate": {"min_f1": 1.0}}


class OneModelService:
    """A service of one model that runs in ``home`` during a ``with`` block. ``model``: its settings in `baton.yaml`."""

    def __init__(self, home: Path, model: Mapping[str, Any]) -> None:
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.client = Client(f"http://127.0.0.1:{port}")
        self.url = f"{self.client.url}/models/{MODEL}"
        content = {"http": {"port": port}, "models": [{"name": MODEL, "base_model": BASE_MODEL, **model}]}
        self.file = home / "baton.yaml"
        self.file.write_text(yaml.safe_dump(content, sort_keys=False))

    def __enter__(self) -> Self:
        self._baton("up", "--detach")
        return self

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._baton("down")

    def train(self, *assignments: str) -> tuple[dict[str, Any], float]:
        """Start a run and wait until it ends. Return it, and the seconds from the request to its decision."""
        began = time.perf_counter()
        run: dict[str, Any] = self.client.post(f"/api/models/{MODEL}/runs", {"set": list(assignments)})
        while run["state"] in ("queued", "running"):
            time.sleep(1.0)
            run = self.client.get(f"/api/runs/{run['id']}")
        if run["state"] != "succeeded":
            raise RuntimeError(f"run {run['id']} {run['state']}: {run['reason']}")
        return run, time.perf_counter() - began

    def newest_run(self) -> dict[str, Any]:
        """Return the newest run, with its decision if there is one."""
        run = self.client.get(f"/api/models/{MODEL}/runs", limit=1)["items"][0]
        found: dict[str, Any] = self.client.get(f"/api/runs/{run['id']}")
        return found

    def wait_for(self, version: int) -> None:
        """Wait until all replicas serve ``version``."""
        while True:
            model = self.client.get(f"/api/models/{MODEL}")
            if model["champion"] == version and not model["rollout"]:
                return
            time.sleep(0.1)

    def register(self, directory: Path) -> int:
        """Register a model, and return its version. Nothing judges it."""
        self._baton("register", MODEL, str(directory), "--wait")
        version: int = self.newest_run()["version"]
        return version

    def force(self, version: int) -> None:
        """Promote a version whatever the gate says, and wait until all replicas serve it."""
        self.client.post(f"/api/models/{MODEL}/promotions", {"version": version, "force": True, "reason": "to be measured"})
        self.wait_for(version)

    def restart(self) -> None:
        """Stop the service, and start it again with its database and its storage."""
        self._baton("down")
        self._baton("up", "--detach")

    def version_directory(self, version: int) -> Path:
        """Return the directory of a version."""
        return Path(self.client.get(f"/api/models/{MODEL}/versions/{version}")["uri"])

    def replicas(self) -> list[dict[str, Any]]:
        """Return the states of the replicas."""
        replicas: list[dict[str, Any]] = self.client.get(f"/api/models/{MODEL}")["replicas"]
        return replicas

    def _baton(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "services.cli", *arguments, "-c", str(self.file)]
        subprocess.run(command, check=True)


class Service(OneModelService):
    """A service with one model, trained and tested on ``data``. It starts without a version.

    ``auto``: nothing is set under ``training``. Otherwise the model is fine-tuned with the recipe of the plain script.
    """

    def __init__(self, home: Path, data: Path, task: str, *, replicas: int = 2, auto: bool = False) -> None:
        self.data = data.resolve()
        self.task = task
        self.auto = auto
        self.subject = SUBJECTS[task]
        plain = {
            "method": "fine_tune",
            **asdict(self.subject.recipe),
            "early_stopping": self.subject.recipe.epochs,
            "validation": self.subject.validation,
        }
        super().__init__(
            home,
            {
                "task": task,
                "data": {"train": str(train_of(self.data)), "holdout": str(holdout_of(self.data))},
                "training": {} if auto else plain,
                "gate": {"min_f1": 0.0},
                "serving": {"replicas": replicas},
            },
        )

    def texts(self, count: int = 500) -> list[str]:
        """Return texts of the holdout. Its rows must have a ``text``."""
        return [row["text"] for row in read_rows(holdout_of(self.data))[:count]]

    def first_version(self) -> int:
        """Return the champion. Train one quickly if there is none yet."""
        champion = self.client.get(f"/api/models/{MODEL}")["champion"]
        if champion is None:
            run, _ = self.train("training.epochs=1", "training.tune=head")
            champion = run["version"]
            self.wait_for(champion)
        return int(champion)

    def trained(self) -> int:
        """Return the champion. Train one for an epoch if there is none yet."""
        champion = self.client.get(f"/api/models/{MODEL}")["champion"]
        if champion is None:
            run, _ = self.train("training.epochs=1")
            champion = run["version"]
            self.wait_for(champion)
        return int(champion)
