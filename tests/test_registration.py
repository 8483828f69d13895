"""Versions from elsewhere: imported, evaluated and judged by the real job functions, without Ray; and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.config.serving_settings import ServingSettings
from baton.engines import onnx_scales
from baton.engines.torch_engine import load_model
from baton.errors import ConfigError, Conflict, CorruptVersion, DataError, UnusableModel
from baton.predict.predictor import Predictor
from baton.store.records import ModelVersion, Run, RunState, Source, Verdict
from baton.store.registry import Registry
from baton.tasks import task_type
from tests.support.audit import fix_secret
from tests.support.tiny import keyword_rows, save_classifier
from tests.support.world import LABELS, World
from tests.support.writers import build_tiny_writer, date_rows
from training import matches, pipeline, publishing, registration
from training.elsewhere import name_labels
from training.exporting import ALLOWED_LOSS
from training.fit.start import Start, find_start

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that somebody else has trained, whose labels have no names."""
    directory = tmp_path_factory.mktemp("elsewhere")
    rows = keyword_rows(300, LABELS, seed=7)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_model("AutoModelForSequenceClassification", tiny_base, LABELS).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for start in [*range(0, len(rows), 20)] * 4:
            batch = rows[start : start + 20]
            features = tokenizer([row["text"] for row in batch], padding=True, return_tensors="pt")
            targets = torch.tensor([LABELS.index(row["label"]) for row in batch])
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(**features).logits, targets).backward()
            optimiser.step()
    model.config.id2label = {index: f"LABEL_{index}" for index in range(len(LABELS))}
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


NAMES = {f"LABEL_{index}": label for index, label in enumerate(LABELS)}


class Elsewhere:
    """A model ``m`` and what it registers."""

    def __init__(self, base: Path, directory: Path, **settings: Any) -> None:
        self.base, self.directory = base, directory
        self.database = f"sqlite:///{directory}/baton.db"
        self.registry, self.storage = Registry(self.database), Storage(str(directory / "storage"))
        self.registry.migrate()
        fix_secret(self.database)
        self.declare(**settings)

    def declare(self, **settings: Any) -> None:
        values = {"name": "m", "task": "classification", "serving": {"precision": "fp32", "device": "cpu"}, **settings}
        self.settings = ModelSettings.model_validate(values)
        self.registry.declare_model("m", self.settings.model_dump(mode="json"))

    def rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
        path = self.directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def register(self, location: Path | str, labels: Mapping[str, str] | None = None) -> Run:
        """Register a directory as the job does, and return the ended run."""
        source = Source(location=str(location), labels=labels, by="me")
        run = self.registry.runs.create("m", self.settings.model_dump(mode="json"), started=True, source=source)
        try:
            registration.register(run.id, self.registry, self.storage)
        except Exception as error:
            self.registry.runs.finish(run.id, RunState.FAILED, reason=str(error))
            raise
        return self.registry.runs.get(run.id)

    def version(self, run: Run) -> ModelVersion:
        assert run.version is not None
        return self.registry.versions.get("m", run.version)

    def complaint(self, location: Path | str, labels: Mapping[str, str] | None = None) -> str:
        with pytest.raises(UnusableModel) as caught:
            self.register(location, labels)
        assert self.registry.versions.list("m") == []
        return str(caught.value)

    def predictor(self, version: ModelVersion) -> Predictor:
        directory, manifest = self.storage.fetch(version, self.directory / "cache")
        predictor = Predictor.load(directory, manifest, self.settings.serving)
        predictor.check(manifest.probes)
        assert manifest.probes
        return predictor


@pytest.fixture
def elsewhere(tiny_base: Path, tmp_path: Path) -> Elsewhere:
    """Its data: a holdout file and nothing to train on."""
    elsewhere = Elsewhere(tiny_base, tmp_path)
    elsewhere.declare(data={"holdout": elsewhere.rows("holdout", keyword_rows(120, LABELS, seed=2))})
    return elsewhere


# --- the way to a decision -----------------------------------------------------------------------------------------------


def test_a_model_from_elsewhere_becomes_a_judged_version_like_any_other(elsewhere, trained):
    run = elsewhere.register(trained, NAMES)
    assert (run.state, run.reason, run.version) == (RunState.SUCCEEDED, None, 1)
    decision = elsewhere.registry.decision(run.decision_id)
    assert decision.sentence.startswith("Promote: v1, the first version, F1 ")
    assert [it.id for it in elsewhere.registry.pending_decisions()] == [decision.id], "it rolls out like any other winner"
    stages = [event.data["stage"] for event in elsewhere.registry.runs.events(run.id)]
    assert list(dict.fromkeys(stages)) == ["importing", "evaluating", "publishing", "deciding", "succeeded"]

    version = elsewhere.version(run)
    directory, manifest = elsewhere.storage.fetch(version, elsewhere.directory / "cache")
    exported = {"model.onnx", "model.int8.onnx"}
    assert set(manifest.files) <= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} | exported
    assert (manifest.labels, manifest.base_model) == (LABELS, str(trained))
    assert json.loads((directory / "config.json").read_text())["id2label"] == {str(i): it for i, it in enumerate(LABELS)}
    source = version.lineage["source"]
    assert (source["location"], source["by"], source["labels"]) == (str(trained), "me", NAMES)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= source["files"].keys()
    assert version.lineage["dataset"]["holdout_rows"] == 120
    [answer] = elsewhere.predictor(version).predict([task_type("classification").from_wire("hello, about the invoice")])
    assert answer.label == "billing"


def test_where_fixed_scales_lose_f1_each_pass_takes_scales_of_its_own(elsewhere, trained, monkeypatch):
    train = elsewhere.rows("train", keyword_rows(60, LABELS, seed=5))
    elsewhere.declare(serving={}, data={"train": train, "holdout": elsewhere.settings.data.holdout})

    def too_small(model: Any, *_: Any) -> Mapping[str, onnx_scales.Range]:
        """Ranges that cut off almost everything."""
        return dict.fromkeys(onnx_scales._quantized(model.graph), (-1e-3, 1e-3))

    monkeypatch.setattr(onnx_scales, "_observe", too_small)
    monkeypatch.setattr(publishing, "race", lambda predictors, _: [1.0] * (len(predictors) - 1) + [2.0])
    version = elsewhere.version(elsewhere.register(trained, NAMES))
    engines = version.lineage["engines"]
    assert list(engines)[:2] == ["onnx cpu int8 dynamic", "onnx cpu int8"]
    assert engines["onnx cpu int8"]["metric"] < engines["onnx cpu fp32"]["metric"] - ALLOWED_LOSS
    assert version.lineage["engine"] == "onnx cpu int8 dynamic"
    assert elsewhere.predictor(version).engine.description == "onnx cpu int8 dynamic"


@pytest.mark.parametrize(("train_rows", "int8"), [(60, "onnx cpu int8"), (0, "onnx cpu int8 dynamic")])
def test_it_is_judged_with_the_engine_that_serves_it(elsewhere, trained, train_rows, int8):
    """Training rows show which values int8 has to cover; without any, each pass takes scales of its own."""
    train = {"train": elsewhere.rows("train", keyword_rows(train_rows, LABELS, seed=5))} if train_rows else {}
    elsewhere.declare(serving={}, data={**train, "holdout": elsewhere.settings.data.holdout})
    version = elsewhere.version(elsewhere.register(trained, NAMES))
    predictor = elsewhere.predictor(version)
    _, manifest = elsewhere.storage.fetch(version, elsewhere.directory / "cache")
    assert predictor.engine.description == version.lineage["engine"]
    assert set(version.lineage["engines"]) == set(manifest.engine.measured) >= {int8, "onnx cpu fp32"}
    assert manifest.engine.measured[predictor.engine.description]["metric"] == version.metrics["f1"]
    assert version.metrics["megabytes"] == pytest.approx(manifest.megabytes)


@pytest.mark.parametrize("serving", [{"precision": "fp32"}, {"engine": "torch"}, {"precision": "bf16"}])
def test_it_is_served_with_another_engine_if_the_settings_say_so_later(elsewhere, trained, serving):
    elsewhere.declare(serving={"precision": "int8"}, data={"holdout": elsewhere.settings.data.holdout})
    directory, manifest = elsewhere.storage.fetch(
        elsewhere.version(elsewhere.register(trained, NAMES)), elsewhere.directory / "cache"
    )
    other = [  # as if int8 had answered quite differently
        probe.model_copy(update={"output": {**probe.output, "scores": [0.1, *probe.output["scores"][1:]]}})
        for probe in manifest.probes
    ]
    Predictor.load(directory, manifest, ServingSettings(**serving)).check(other)
    with pytest.raises(CorruptVersion, match="self-check failed"):
        Predictor.load(directory, manifest, ServingSettings()).check(other)


SERVE = """
import sys
from pathlib import Path
from baton.artifacts.manifest import Manifest
from baton.config.serving_settings import ServingSettings
from baton.predict.predictor import Predictor
import services.replica.replica

directory = Path(sys.argv[1])
manifest = Manifest.from_bytes((directory / "baton.json").read_bytes(), "")
predictor = Predictor.load(directory, manifest, ServingSettings())
predictor.warm()
predictor.check(manifest.probes)
print(predictor.engine.description)
print(*(name for name in ("torch", "transformers", "onnx", "scipy") if name in sys.modules))
"""


def test_a_process_that_serves_an_export_loads_neither_torch_nor_transformers(elsewhere, trained):
    elsewhere.declare(serving={}, data={"holdout": elsewhere.settings.data.holdout})
    directory, _ = elsewhere.storage.fetch(elsewhere.version(elsewhere.register(trained, NAMES)), elsewhere.directory / "cache")
    done = subprocess.run([sys.executable, "-c", SERVE, str(directory)], capture_output=True, text=True, check=True)
    engine, loaded = done.stdout.splitlines()
    assert engine.startswith("onnx cpu")
    assert loaded == ""


def test_without_a_holdout_the_exact_engine_serves_it(elsewhere, trained):
    elsewhere.declare(serving={})
    version = elsewhere.version(elsewhere.register(trained, NAMES))
    assert elsewhere.predictor(version).engine.description == version.lineage["engine"] == "onnx cpu fp32"
    assert "model.int8.onnx" not in elsewhere.storage.fetch(version, elsewhere.directory / "cache")[1].files


def test_it_must_beat_the_champion(elsewhere, trained):
    elsewhere.register(trained, NAMES)
    [decision] = elsewhere.registry.pending_decisions()
    elsewhere.registry.promote(decision, elsewhere.registry.champion("m"))
    worse = save_classifier(elsewhere.base, LABELS, elsewhere.directory / "worse")
    decision = elsewhere.registry.decision(elsewhere.register(worse).decision_id)
    assert (decision.verdict, decision.champion) == (Verdict.REJECT, 1)
    assert "against v1" in decision.sentence


def test_the_same_files_are_registered_once(elsewhere, trained, tmp_path):
    first = elsewhere.register(trained, NAMES)
    copy = shutil.copytree(trained, tmp_path / "copy")
    again = elsewhere.register(copy, NAMES)
    assert (again.state, again.version, again.decision_id) == (RunState.SUCCEEDED, first.version, None)
    assert again.reason == "these files are v1 of m already"
    other = elsewhere.register(copy, {**NAMES, "LABEL_0": "invoices"})
    assert other.version == 2, "with other names for its labels it answers otherwise"


def test_a_model_without_data_is_published_and_only_force_can_promote_it(tiny_base, tmp_path):
    elsewhere = Elsewhere(tiny_base, tmp_path)
    directory = save_classifier(tiny_base, LABELS, tmp_path / "own")
    run = elsewhere.register(directory)
    assert (run.state, run.version, run.decision_id) == (RunState.SUCCEEDED, 1, None)
    assert run.reason == (
        "v1 was not judged: m declares no data, so that there is no holdout. `baton promote m 1 --force --reason …` puts it "
        "into service; with data.holdout it would be evaluated"
    )
    version = elsewhere.version(run)
    assert version.metrics.keys() == {"megabytes"}
    assert version.metrics["megabytes"] > 0.01
    elsewhere.predictor(version)
    with pytest.raises(DataError, match="m declares no data, so that nothing can be evaluated"):
        matches.judge(elsewhere.settings, 1, elsewhere.registry, elsewhere.storage)


def test_a_version_that_was_not_judged_is_once_there_is_a_holdout(tiny_base, trained, tmp_path):
    elsewhere = Elsewhere(tiny_base, tmp_path)
    elsewhere.register(trained, NAMES)
    elsewhere.declare(data={"holdout": elsewhere.rows("holdout", keyword_rows(120, LABELS, seed=2))})
    evaluation = matches.evaluate_newest(elsewhere.settings, 1, elsewhere.registry, elsewhere.storage)
    assert evaluation.metrics["f1"] > 0.9
    assert elsewhere.registry.newest_gate_decision("m", 1) is None, "an evaluation decides nothing"
    assert matches.judge(elsewhere.settings, 1, elsewhere.registry, elsewhere.storage).verdict is Verdict.PROMOTE


def test_it_does_not_count_as_trained_on_the_corrections_of_its_data_set(tiny_base, tmp_path):
    world = World(tiny_base, tmp_path, rows=60)
    world.registry.declare_model("m", world.settings().model_dump(mode="json"))
    trained_here = world.publish(save_classifier(tiny_base, LABELS, tmp_path / "first"))
    run = world.registry.runs.create(
        "m",
        world.settings().model_dump(mode="json"),
        started=True,
        source=Source(location=str(save_classifier(tiny_base, LABELS, tmp_path / "own", spread=2.0))),
    )
    registration.register(run.id, world.registry, world.storage)
    version = world.registry.versions.get("m", 2)
    assert version.lineage["dataset"]["feedback_until"] == trained_here.lineage["dataset"]["feedback_until"]
    assert "uri" not in version.lineage["dataset"], "a run that goes on from it replays nothing"


def test_a_run_goes_on_from_a_registered_champion_if_its_base_model_is_the_same_directory(tiny_base, trained, tmp_path):
    world = World(tiny_base, tmp_path, rows=60)
    spec = world.settings().model_dump(mode="json")
    run = world.registry.runs.create("m", spec, started=True, source=Source(location=str(trained), labels=NAMES))
    registration.register(run.id, world.registry, world.storage)
    world.make_champion(world.registry.versions.get("m", 1))
    settings = world.settings(start_from="champion").model_copy(update={"base_model": str(trained)})
    start = find_start(settings, world.registry, world.storage, world.dataset)
    assert (start.parent, start.known_rows, list(start.new_labels)) == (1, 0, [])
    other = find_start(world.settings(start_from="champion"), world.registry, world.storage, world.dataset)
    assert (other.parent, f"v1, has the base model {trained}" in other.reason) == (None, True)


def test_a_run_goes_on_from_a_registered_champion_whose_source_has_no_safetensors(tiny_base, trained, tmp_path):
    source = Path(shutil.copytree(trained, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors")))
    torch.save(load_file(trained / "model.safetensors"), source / "pytorch_model.bin")
    (tmp_path / "world").mkdir()
    world = World(tiny_base, tmp_path / "world", rows=60)
    spec = world.settings().model_dump(mode="json")
    run = world.registry.runs.create("m", spec, started=True, source=Source(location=str(source), labels=NAMES))
    registration.register(run.id, world.registry, world.storage)
    world.make_champion(world.registry.versions.get("m", 1))

    def prepare(start_from: str) -> Start:
        settings = world.settings(start_from=start_from).model_copy(update={"base_model": str(source)})
        context = replace(world.context(), settings=settings)
        return pipeline.choose_recipe(context, pipeline.prepare(context))[1]

    assert prepare("champion").parent == 1
    with pytest.raises(ConfigError, match=r"pickled has no weights in safetensors"):
        prepare("base")


def test_labels_that_it_cannot_answer_are_told(elsewhere, tmp_path):
    run = elsewhere.register(save_classifier(elsewhere.base, LABELS[:2], tmp_path / "two"))
    decision = elsewhere.registry.decision(run.decision_id)
    assert decision.numbers["unanswerable_labels"] == ["cancel", "shipping"]
    assert "It cannot answer the labels 'cancel', 'shipping', which 60 holdout rows have." in decision.sentence


def test_a_version_of_another_task_is_not_evaluated(elsewhere, trained):
    elsewhere.register(trained, NAMES)
    elsewhere.declare(task="multi_label", data=elsewhere.settings.data.model_dump())
    with pytest.raises(Conflict, match="v1 has another task than multi_label"):
        matches.evaluate_newest(elsewhere.settings, 1, elsewhere.registry, elsewhere.storage)


# --- other tasks, other files --------------------------------------------------------------------------------------------


def test_weights_that_are_pickled_tensors_become_safetensors(elsewhere, trained, tmp_path):
    directory = shutil.copytree(trained, tmp_path / "pickled")
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    version = elsewhere.version(elsewhere.register(directory, NAMES))
    assert version.metrics["f1"] > 0.9
    files = elsewhere.storage.fetch(version, tmp_path)[1].files
    assert "model.safetensors" in files
    assert "pytorch_model.bin" not in files


class Evil:
    """What unpickling would run."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


def test_a_pickle_that_would_run_code_is_refused(elsewhere, trained, tmp_path):
    directory = shutil.copytree(trained, tmp_path / "evil")
    torch.save({"classifier.bias": Evil()}, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    assert "pytorch_model.bin holds more than tensors, and to read the rest would run code" in elsewhere.complaint(
        directory, NAMES
    )


def test_weights_in_several_files_become_one(elsewhere, trained, tmp_path):
    directory = shutil.copytree(trained, tmp_path / "sharded", ignore=shutil.ignore_patterns("model.safetensors"))
    AutoModelForSequenceClassification.from_pretrained(trained).save_pretrained(directory, max_shard_size="50KB")
    assert (directory / "model.safetensors.index.json").is_file()
    version = elsewhere.version(elsewhere.register(directory, NAMES))
    assert version.metrics["f1"] > 0.9
    weights = [name for name in elsewhere.storage.fetch(version, tmp_path)[1].files if name.endswith((".safetensors", ".bin"))]
    assert weights == ["model.safetensors"]


def test_a_storage_url_is_fetched(elsewhere, trained, tmp_path):
    remote = Storage("memory://elsewhere")
    for path in trained.iterdir():
        remote.filesystem.put_file(str(path), f"/elsewhere/own/{path.name}")
    remote.filesystem.pipe_file("/elsewhere/own/optimizer.pt", b"large")
    version = elsewhere.version(elsewhere.register("memory://elsewhere/own", NAMES))
    assert version.metrics["f1"] > 0.9
    assert "optimizer.pt" not in version.lineage["source"]["files"]
    assert "memory://elsewhere/none has no config.json" in elsewhere_complaint(elsewhere, "memory://elsewhere/none")


def elsewhere_complaint(elsewhere: Elsewhere, location: str) -> str:
    with pytest.raises(UnusableModel) as caught:
        elsewhere.register(location)
    return str(caught.value)


NER_ROWS = [
    {"text": f"{name} lives in {place}", "entities": [{"start": 0, "end": len(name), "label": "PER"}]}
    for name in ("ada", "bob", "eve", "max")
    for place in ("rome", "oslo", "bonn", "kiel", "graz", "nice", "york", "lima", "cork", "metz")
]
QA_ROWS = [
    {"question": f"who has {number}?", "context": f"{name} has {number}", "answers": {"text": [name], "answer_start": [0]}}
    for number, name in enumerate(["ada", "bob", "eve", "max"] * 10)
]
MULTI_ROWS = [{"text": row["text"], "label": [row["label"]]} for row in keyword_rows(40, LABELS, seed=5)]


@pytest.mark.parametrize(
    ("task", "rows", "labels"),
    [
        ("ner", NER_ROWS, ("O", "B-PER", "I-PER")),
        ("qa", QA_ROWS, ()),
        ("multi_label", MULTI_ROWS, LABELS),
    ],
)
def test_every_task_is_imported_evaluated_and_served(tiny_base, tmp_path, task, rows, labels):
    elsewhere = Elsewhere(tiny_base, tmp_path)
    windows = {"max_length": 64}
    elsewhere.declare(task=task, data={"holdout": elsewhere.rows("holdout", rows)}, training=windows)
    directory = tmp_path / "own"
    load_model(task_type(task).auto_model, tiny_base, labels).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(directory)
    run = elsewhere.register(directory)
    version = elsewhere.version(run)
    assert run.decision_id is not None
    assert tuple(version.lineage["labels"]) == labels
    elsewhere.predictor(version)


def test_a_model_that_writes_is_imported_with_its_own_configuration_of_writing(tiny_base, tmp_path):
    elsewhere = Elsewhere(tiny_base, tmp_path)
    rows = date_rows(40, seed=3)
    training = {"max_length": 64, "generation": {"max_new_tokens": 12, "num_beams": 2}}
    elsewhere.declare(task="seq2seq", data={"holdout": elsewhere.rows("holdout", rows)}, training=training)
    message = elsewhere.complaint(tiny_base)
    assert "is a BertModel, and m (task: seq2seq) needs a …ForConditionalGeneration" in message
    directory = build_tiny_writer(tmp_path / "own", spread=0.3)
    other = edited(directory, tmp_path / "mbart", model_type="mbart", architectures=["MBartForConditionalGeneration"])
    assert "is a mbart model, with which Baton was not tried to write; allowed: bart, mt5" in elsewhere.complaint(other)
    file = directory / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"no_repeat_ngram_size": 2}))
    version = elsewhere.version(elsewhere.register(directory))
    fetched, manifest = elsewhere.storage.fetch(version, tmp_path)
    assert (version.lineage["labels"], manifest.generation.num_beams) == ([], 2)
    assert json.loads((fetched / "generation_config.json").read_text())["no_repeat_ngram_size"] == 2
    [answer] = elsewhere.predictor(version).predict([task_type("seq2seq").from_wire("4 July 1976")])
    pairs = [answer.text[place : place + 2] for place in range(len(answer.text) - 1)]
    assert 0 < len(answer.text) <= 12
    assert len(set(pairs)) == len(pairs)


def test_thresholds_come_from_validation_rows_where_there_are_some(tiny_base, tmp_path):
    elsewhere = Elsewhere(tiny_base, tmp_path)
    holdout = elsewhere.rows("holdout", MULTI_ROWS)
    elsewhere.declare(task="multi_label", data={"holdout": holdout})
    directory = save_classifier(tiny_base, LABELS, tmp_path / "own")
    plain = elsewhere.version(elsewhere.register(directory))
    assert elsewhere.storage.fetch(plain, tmp_path)[1].calibration == {}
    train = [{"text": row["text"], "label": [row["label"]]} for row in keyword_rows(80, LABELS, seed=6)]
    elsewhere.declare(task="multi_label", data={"train": elsewhere.rows("train", train), "holdout": holdout})
    other = elsewhere.version(elsewhere.register(save_classifier(tiny_base, LABELS, tmp_path / "other", spread=2.0)))
    assert elsewhere.storage.fetch(other, tmp_path)[1].calibration.keys() == set(LABELS)


# --- what is refused, and what the message teaches -----------------------------------------------------------------------


def test_labels_without_names_must_be_named(elsewhere, trained):
    message = elsewhere.complaint(trained)
    assert "4 labels of the model without a name: LABEL_0, LABEL_1, LABEL_2, LABEL_3" in message
    assert '--labels FILE.json with an object such as {"LABEL_0": "billing", …}' in message
    assert "1 label of the model without a name: LABEL_3" in elsewhere.complaint(
        trained, {name: label for name, label in NAMES.items() if name != "LABEL_3"}
    )
    assert "the model has no label 'LABEL_9' to name; it has LABEL_0, " in elsewhere.complaint(trained, {"LABEL_9": "x"})
    assert "two outputs of the model have it" in elsewhere.complaint(trained, {**NAMES, "LABEL_1": "billing"})


def test_labels_may_be_named_by_their_numbers_as_id2label_does():
    task_cls = task_type("classification")
    assert name_labels(task_cls, ["LABEL_0", "LABEL_1"], {"0": "a", "1": "b"}) == ("a", "b")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (("B-PER", "I-PER"), "there is no 'O'"),
        (("O", "PER"), "'PER' does not fit"),
        (("O", "I-PER"), "'I-PER' does not fit"),
        (("O", "B-PER", "I-PER", "S-PER"), "'S-PER' does not fit"),
    ],
)
def test_ner_needs_labels_in_bio(labels, told):
    with pytest.raises(UnusableModel, match="ner needs the labels O, and for each type X B-X") as caught:
        name_labels(task_type("ner"), labels, None)
    assert told in str(caught.value)


def test_a_model_with_one_output_is_no_classifier():
    with pytest.raises(UnusableModel, match="at least two labels; the model has 1: it is a regression"):
        name_labels(task_type("classification"), ["score"], None)


def test_question_answering_has_no_labels_to_name():
    with pytest.raises(UnusableModel, match="qa has no labels"):
        name_labels(task_type("qa"), [], {"LABEL_0": "x"})


def test_a_model_for_another_task_is_refused_with_the_task_that_it_fits(elsewhere, tiny_base, tmp_path):
    AutoModelForQuestionAnswering.from_pretrained(tiny_base).save_pretrained(tmp_path / "qa")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / "qa")
    message = elsewhere.complaint(tmp_path / "qa")
    assert "is a BertForQuestionAnswering, and m (task: classification) needs a …ForSequenceClassification" in message
    assert "it would fit task: qa" in message
    assert "is a BertModel" in (message := elsewhere.complaint(tiny_base))
    assert "it has no head for any task of Baton; to train one from it, declare it as base_model" in message


def edited(directory: Path, copy: Path, **config: Any) -> Path:
    shutil.copytree(directory, copy)
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**content, **config}))
    return copy


def test_a_multi_label_model_is_not_registered_for_one_right_label(elsewhere, trained, tmp_path):
    directory = edited(trained, tmp_path / "multi", problem_type="multi_label_classification")
    message = elsewhere.complaint(directory, NAMES)
    assert (
        "was trained for multi_label_classification, and m has task: classification; it would fit task: multi_label" in message
    )


def test_code_that_comes_with_a_model_is_not_run(elsewhere, trained, tmp_path):
    directory = edited(trained, tmp_path / "code", model_type="own", auto_map={"AutoConfig": "own.Own"})
    (directory / "own.py").write_text("raise SystemExit('it ran')")
    assert "its config.json cannot be used" in elsewhere.complaint(directory, NAMES)


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (["config.json"], "has no config.json: it is not a Hugging Face model"),
        (["model.safetensors"], "has no weights: model.safetensors or pytorch_model.bin; it has config.json"),
        (["tokenizer.json", "tokenizer_config.json"], "has no tokenizer; save it there: AutoTokenizer"),
    ],
)
def test_a_directory_without_what_a_version_needs_is_refused(elsewhere, trained, tmp_path, missing, told):
    directory = shutil.copytree(trained, tmp_path / "part", ignore=shutil.ignore_patterns(*missing))
    assert told in elsewhere.complaint(directory, NAMES)


def test_adapters_alone_are_refused(elsewhere, trained, tmp_path):
    directory = shutil.copytree(trained, tmp_path / "lora", ignore=shutil.ignore_patterns("model.safetensors"))
    (directory / "adapter_config.json").write_text("{}")
    assert "has adapters without their model; merge them" in elsewhere.complaint(directory, NAMES)


def test_weights_that_are_missing_are_not_made_up(elsewhere, tiny_base, tmp_path):
    directory = edited(
        tiny_base,
        tmp_path / "headless",
        architectures=["BertForSequenceClassification"],
        id2label={"0": "a", "1": "b"},
    )
    message = elsewhere.complaint(directory)
    assert "do not load as a model for classification: weights are missing: classifier.bias, classifier.weight" in message


def test_a_tokenizer_of_another_model_is_refused(elsewhere, tiny_base, tmp_path):
    model = load_model("AutoModelForSequenceClassification", tiny_base, LABELS)
    model.resize_token_embeddings(100)
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / "other")
    assert "tokens, and the model knows 100; the tokenizer belongs to another model" in elsewhere.complaint(tmp_path / "other")


def test_a_place_that_is_not_there_is_told(elsewhere, tmp_path):
    assert "no such directory on the node that runs this job" in elsewhere.complaint(tmp_path / "none")
    (file := tmp_path / "own.json").write_text("{}")
    assert "own.json is a file; name the directory that it lies in" in elsewhere.complaint(file)


def test_a_model_of_the_hub_is_registered_by_its_id(elsewhere, trained, tmp_path, monkeypatch):
    """The hub's cache, as a download leaves it: offline, nothing else can be reached."""
    repository = tmp_path / "hub" / "models--somebody--intents"
    commit = "5f" * 20
    shutil.copytree(trained, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    version = elsewhere.version(elsewhere.register("somebody/intents", NAMES))
    assert version.lineage["source"]["location"] == "somebody/intents"
    assert version.metrics["f1"] > 0.9


def test_a_hub_id_that_offline_no_cache_has_is_told_with_what_forbids_its_download(elsewhere, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told = elsewhere.complaint("somebody/nothing")
    assert "on the node that runs this job, model 'somebody/nothing' is neither a directory nor in the local cache" in told
    assert "and HF_HUB_OFFLINE=1 forbids downloads. Offline, give a directory" in told
