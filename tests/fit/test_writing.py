"""Models that write: a tiny T5 learns to write, and writes in training, in evaluation and in serving alike.

The `Trainer` of Ray Train's workers is built and run in this process, without Ray.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.predict.predictor import Predictor
from baton.tasks.seq2seq import Seq2Seq
from tests.support.database import migrated_registry
from tests.support.world import last_checkpoint
from tests.support.writers import build_tiny_writer, date_rows
from training import pipeline
from training.context import Clock, Context
from training.data import datasets
from training.fit.request import Trained, WorkerConfig
from training.fit.worker import build_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = {
    "epochs": 18,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "validation": 0.05,
    "early_stopping": 20,
    "generation": {"max_new_tokens": 16},
    "precision": "fp32",
    "device": "cpu",
}


class Dates:
    """A frozen data set of dates, and trainers on it."""

    def __init__(self, directory: Path, rows: int) -> None:
        self.base = build_tiny_writer(directory / "base")
        self.directory, self.storage = directory, Storage(str(directory / "storage"))
        self.database = f"sqlite:///{directory}/baton.db"
        self.registry = migrated_registry(self.database)
        self.registry.declare_model("m")
        for name, count, seed in (("train", rows, 1), ("holdout", 200, 2)):
            lines = [json.dumps(row) + "\n" for row in date_rows(count, seed)]
            (directory / f"{name}.jsonl").write_text("".join(lines))
        self.dataset = datasets.freeze("m", Seq2Seq, self.settings().data, self.storage)

    def settings(self, **training: Any) -> ModelSettings:
        files = {name: str(self.directory / f"{name}.jsonl") for name in ("train", "holdout")}
        return ModelSettings.model_validate(
            {
                "name": "m",
                "task": "seq2seq",
                "base_model": str(self.base),
                "data": files,
                "training": {**TRAINING, **training},
                "serving": {"device": "cpu"},
            }
        )

    def trainer(self, scratch: Path, **training: Any) -> transformers.Trainer:
        config = WorkerConfig(
            run_id="r",
            settings={},
            labels=self.dataset.version.labels,
            dataset_uri=self.dataset.version.uri,
            storage=self.storage.url,
            database=self.database,
            threads=1,
            use_gpu=False,
        )
        return build_trainer(config, self.settings(**training), scratch, world_size=1)

    def publish(self, checkpoint: Path, **training: Any) -> Any:
        """Publish a checkpoint as a version, scored on the holdout as it will be served."""
        settings = self.settings(**training)
        clock = Clock(lambda stage, progress: None)
        context = Context(settings=settings, declared=settings, registry=self.registry, storage=self.storage, clock=clock)
        best = Trained(directory=checkpoint, f1=0.5, epoch=1)
        return pipeline.publish(context, "by-hand", self.dataset, best)


@pytest.fixture(scope="module")
def dates(tmp_path_factory: pytest.TempPathFactory) -> Dates:
    return Dates(tmp_path_factory.mktemp("dates"), rows=2000)


@pytest.fixture(scope="module")
def trained(dates: Dates, tmp_path_factory: pytest.TempPathFactory) -> transformers.Trainer:
    trainer = dates.trainer(tmp_path_factory.mktemp("trained"))
    trainer.train()
    return trainer


def test_a_tiny_model_learns_to_write_dates_and_is_judged_by_what_it_writes(dates, trained, tmp_path):
    version, evaluation = dates.publish(last_checkpoint(trained))
    assert evaluation.metrics["exact_match"] >= 0.9
    assert evaluation.metrics["f1"] >= 0.95
    assert "confidence" not in evaluation.metrics, "what a model writes has no score"
    assert version.lineage["engine"] == "torch cpu fp32"
    assert "token by token" in version.lineage["engine_reason"]
    directory, manifest = dates.storage.fetch(version, tmp_path)
    assert manifest.generation is not None
    assert manifest.generation.max_new_tokens == 16
    predictor = Predictor.load(directory, manifest, dates.settings().serving)
    predictor.warm()
    predictor.check(manifest.probes)
    [right, other] = predictor.predict([predictor.task.from_wire(text) for text in ("4 July 1976", "December 25, 1999")])
    assert (right.text, other.text) == ("1976-07-04", "1999-12-25")


def test_transformers_alone_write_the_same_from_the_directory_of_a_version(trained):
    directory = last_checkpoint(trained)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    written = model.generate(**tokenizer("4 July 1976", return_tensors="pt"), max_new_tokens=16)
    assert tokenizer.decode(written[0], skip_special_tokens=True) == "1976-07-04"


def test_the_scores_of_the_epochs_are_those_of_what_is_written(trained):
    scores = [entry["eval_f1"] for entry in trained.state.log_history if "eval_f1" in entry]
    assert len(scores) == TRAINING["epochs"]
    assert scores[0] < 0.9 < scores[-1]


def test_targets_beyond_the_bound_are_cut_and_have_no_end(dates):
    task = dates.settings(generation={"max_new_tokens": 4}).make_task(())
    tokenizer = task.prepare_tokenizer(transformers.AutoTokenizer.from_pretrained(dates.base).backend_tokenizer)
    example = task.Example(source="4 July 1976", target=["1976-07-04", "another"])
    windows = task.encode(tokenizer, [task.input_of(example)], [task.Options()])
    assert task.targets([example], windows) == [tokenizer.encode("1976", add_special_tokens=False).ids]


def test_adapters_learn_in_encoder_and_decoder_and_leave_the_rest_alone(dates, tmp_path):
    trainer = dates.trainer(tmp_path, tune="lora", epochs=1, validation=0.9, lora_rank=4)
    learning = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in learning)
    assert {name.split(".")[0] for name in learning} == {"encoder", "decoder"}
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items() if "lora_" not in name}
    trainer.train()
    after = trainer.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    saved = transformers.AutoModelForSeq2SeqLM.from_pretrained(last_checkpoint(trainer))
    changed = saved.encoder.block[0].layer[0].SelfAttention.q.weight
    assert not torch.equal(changed, before["encoder.block.0.layer.0.SelfAttention.q.base_layer.weight"])
