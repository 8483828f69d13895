"""A model that is made smaller: what does least is removed, and the result is a plain Hugging Face directory."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baton.engines.torch_engine import load_model
from baton.errors import ConfigError
from baton.tasks import task_type
from tests.support.families import CLASSES, FAMILIES, save_family
from tests.support.world import LABELS, World, last_checkpoint
from training import pipeline
from training.fit.start import Start, find_start
from training.fit.worker import build_trainer
from training.methods import pruning
from training.methods.pooling import family_of, pool_mean

pytestmark = pytest.mark.usefixtures("one_thread")
DOCS = Path(__file__).parents[2] / "docs" / "training.md"
BATCHES = [{"input_ids": (ids := torch.arange(3, 35).reshape(2, 16)), "attention_mask": torch.ones_like(ids)}]


def exceptions(what: str) -> set[str]:
    """The families that docs/training.md names as those that have no ``what`` to remove."""
    [named] = re.findall(rf"`{what}`: all but (.+?)\.\s", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    return set(re.findall(r"`([\w-]+)`", named))


def load(directory: Path) -> Any:
    return load_model(CLASSES, directory).eval().requires_grad_(False)


def logits(model: Any, batch: Mapping[str, torch.Tensor] = BATCHES[0]) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(**batch).logits
    return output


@pytest.mark.parametrize(("what", "wanted"), [("layers", {"layers": 1}), ("units", {"width": 32})])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_gets_smaller_or_is_refused(family, what, wanted, tmp_path):
    model = load(save_family(family, CLASSES, tmp_path / "before"))
    before, task = model.num_parameters(), task_type("classification")([*"abcde"], 64)

    def shrink() -> None:
        pruning.shrink(model, task, BATCHES, tmp_path / "after", **{"layers": None, "width": None, **wanted})

    if family in exceptions(what):
        with pytest.raises(ConfigError, match=r"training\.prune"):
            shrink()
    else:
        shrink()
        assert load(tmp_path / "after").num_parameters() == model.num_parameters() < before


def test_the_layer_that_changes_its_input_least_is_removed(tmp_path):
    model = load(save_family("bert", CLASSES, tmp_path))
    idle = model.bert.encoder.layer[0]
    for linear in (idle.attention.output.dense, idle.output.dense):  # nothing is added: its output is its normalised input
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    working, before = model.bert.encoder.layer[1], logits(model)
    pruning.drop_layers(model, 1, BATCHES)
    assert list(model.bert.encoder.layer) == [working]
    assert model.config.num_hidden_layers == 1
    assert torch.allclose(logits(model), before, atol=1e-4)


def test_units_that_nobody_reads_are_removed_first(tmp_path):
    model = load(save_family("bert", CLASSES, tmp_path))
    for number, layer in enumerate(model.bert.encoder.layer):
        layer.output.dense.weight[:, number::2] = 0
    before = logits(model)
    pruning.narrow(model, 40, BATCHES)
    assert model.config.intermediate_size == 40
    assert torch.allclose(logits(model), before, atol=1e-4)
    pruning.narrow(model, 24, BATCHES)
    assert not torch.allclose(logits(model), before, atol=1e-2)


def test_the_layer_that_averages_is_not_counted_and_stays(tmp_path):
    model = load(save_family("bert", CLASSES, tmp_path))
    pool_mean(model, family_of(model, "m"))
    averaging = model.bert.encoder.layer[-1]
    pruning.drop_layers(model, 1, BATCHES)
    assert len(model.bert.encoder.layer) == model.config.num_hidden_layers == 2
    assert model.bert.encoder.layer[-1] is averaging
    pruning.drop_layers(model, 1, BATCHES)
    assert len(model.bert.encoder.layer) == 2, "it was pruned already"


def test_numbers_of_units_fit_matrix_kernels():
    assert pruning.units_left({"intermediate_size": 1536}, 0.3) == 1072
    assert pruning.units_left({"hidden_dim": 10}, 0.9) == 8
    with pytest.raises(ConfigError, match="gpt2 models names no feed-forward units"):
        pruning.units_left({"model_type": "gpt2"}, 0.3)


# --- in a run --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tiny_base: Path, tmp_path: Path) -> World:
    return World(tiny_base, tmp_path, rows=160)


def pruned(world: World, start: Start, **training: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Begin a run that prunes. Return its context, its request after that, and the facts for the lineage."""
    context = world.context(prune={"layers": 1, "units": 0.5}, **training)
    request = pipeline.make_request(context, uuid.uuid4().hex, world.dataset, start, world.worker_config.database)
    return context, *pipeline.prune(context, request)


def test_a_run_trains_the_smaller_model(world, tmp_path):
    context, request, facts = pruned(world, Start(), start_from="probe", few_shot=False)
    assert facts["pruning"]["layers"] == 1
    assert facts["pruning"]["parameters"] < facts["pruning"]["parameters_before"]
    request, _ = pipeline.fit_probe(context, request, {})
    (tmp_path / "scratch").mkdir()
    trainer = build_trainer(
        replace(world.worker_config, start=asdict(request.start)), request.settings, tmp_path / "scratch", 1
    )
    assert (trainer.model.config.num_hidden_layers, trainer.model.config.intermediate_size) == (2, 64)  # one averages
    trainer.train()
    assert world.f1(last_checkpoint(trainer), world.dataset.holdout) >= 0.6


def test_a_champion_that_was_pruned_is_trained_further_as_it_is(world, tmp_path):
    _, request, _ = pruned(world, Start())
    (tmp_path / "scratch").mkdir()
    trainer = build_trainer(
        replace(world.worker_config, start=asdict(request.start)), request.settings, tmp_path / "scratch", 1
    )
    trainer.train()
    world.make_champion(world.publish(last_checkpoint(trainer)))
    start = find_start(world.settings(start_from="champion"), world.registry, world.storage, world.dataset)
    assert start.parent == 1
    _, again, facts = pruned(world, start, start_from="champion")
    assert facts["pruning"]["parameters"] == facts["pruning"]["parameters_before"]
    before, after = last_checkpoint(trainer), Path(world.storage.runs_path) / again.start.prepared
    assert world.f1(after, world.dataset.holdout) == world.f1(before, world.dataset.holdout)
    assert list(load_model(CLASSES, after).config.id2label.values()) == sorted(LABELS)


def test_a_run_that_prunes_nothing_has_no_such_step(world):
    context = world.context()
    request = pipeline.make_request(context, "r", world.dataset, Start(), "unused")
    assert pipeline.prune(context, request) == (request, {})
