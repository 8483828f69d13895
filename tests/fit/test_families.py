"""The table of model families in docs/tasks.md, kept true: each family that it names can be trained, and no other is let in."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from baton.config.base_models import check_architecture
from baton.config.training_settings import TrainingSettings
from baton.engines.torch_engine import load_model
from baton.engines.torch_writing import write
from baton.errors import ConfigError
from baton.generation import Generation
from baton.tasks import TASKS
from baton.tasks.base import IGNORED, Target
from tests.support.families import CLASSES, COMMON, FAMILIES, NOT_EXPORTABLE, TEXT, WRITERS, made_for, save_family
from training.data.batches import Collator
from training.fit.losses import loss_function

DOCS = Path(__file__).parents[2] / "docs" / "tasks.md"
LABELS = ("a", "b", "c")
COLUMNS = {"classification": ("classification", "multi_label"), "ner": ("ner",), "qa": ("qa",), "seq2seq": ("seq2seq",)}
"""Tasks in each column of the table: those of one column load the same class of models."""
CASES = [(family, name) for name, task in TASKS.items() for family in made_for(task.auto_model)]


def told() -> dict[str, list[str]]:
    """The cells of each family in the table of the manual."""
    rows = re.findall(
        r"^\| `([\w-]+)` \| (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {family: cells for family, *cells in rows}


def test_the_manual_names_each_family_with_the_tasks_that_it_can_be_trained_for():
    expected = {
        family: [
            *("✓" if family in made_for(TASKS[tasks[0]].auto_model) else "–" for tasks in COLUMNS.values()),
            "torch" if family in (*NOT_EXPORTABLE, *WRITERS) else "ONNX",
        ]
        for family in (*FAMILIES, *WRITERS)
    }
    table = told()
    assert table == expected
    assert list(table) == sorted(table)


def targets(target: Target, lengths: list[int]) -> list[object]:
    """Something to learn for each of some windows."""
    made: dict[Target, list[object]] = {
        "class": [index % len(LABELS) for index in range(len(lengths))],
        "classes": [[1.0, 0.0, 1.0] for _ in lengths],
        "tokens": [[IGNORED, *[index % len(LABELS) for index in range(length - 1)]] for length in lengths],
        "span": [[1, 3] for _ in lengths],
        "text": [[7, 8, 9, 1][: length // 3] for length in lengths],
    }
    return made[target]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_family_is_let_in_and_its_loss_reaches_every_layer(family, name, tmp_path):
    task = TASKS[name]
    base = save_family(family, task.auto_model, tmp_path, labels=7)  # as people's bases have: a head for other labels
    check_architecture(base, family, task.auto_model)
    model = load_model(task.auto_model, base, {"span": (), "text": None}.get(task.target, LABELS))
    lengths = [9, 20, 6]
    pad_id = (FAMILIES | WRITERS)[family].get("pad_token_id", 0)
    ids = [np.random.default_rng(length).integers(5, COMMON["vocab_size"], length).tolist() for length in lengths]
    for row in ids if (family, name) == ("longformer", "qa") else ():
        row[2] = row[3] = row[-1] = 2  # its head looks for the separators around the context
    rows = [
        {"input_ids": row, "token_type_ids": [0] * len(row), "labels": label}
        for row, label in zip(ids, targets(task.target, lengths), strict=True)
    ]
    accepted = inspect.signature(model.forward).parameters.keys() | {"labels"}
    decoder_ids = model.prepare_decoder_input_ids_from_labels if task.target == "text" else None
    batch = Collator(pad_id, accepted, token_labels=task.target in ("tokens", "text"), decoder_ids=decoder_ids)(rows)
    labels = batch.pop("labels")
    loss = loss_function(task.target, TrainingSettings(), labels.tolist(), len(LABELS))(model(**batch), labels)
    loss.backward()
    assert torch.isfinite(loss)
    layers = {name.split(".weight")[0]: weight for name, weight in model.named_parameters() if weight.dim() > 1}
    reached = [name for name, weight in layers.items() if weight.grad is not None and weight.grad.abs().sum() > 0]
    assert len(reached) > len(layers) / 2, "a model whose layers learn nothing"
    assert all(torch.isfinite(weight.grad).all() for weight in layers.values() if weight.grad is not None)


@pytest.mark.parametrize("name", TASKS)
def test_a_family_without_a_class_for_the_task_is_refused_before_anything_starts(name, tmp_path):
    task = TASKS[name]
    complaint = "with which Baton" if task.auto_model == TEXT else f"of which transformers has no {task.auto_model}"
    for family in set(FAMILIES) - set(made_for(task.auto_model)):
        base = save_family(family, CLASSES, tmp_path / family)
        with pytest.raises(ConfigError, match=f"is a {family} model, {complaint}"):
            check_architecture(base, family, task.auto_model)


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"seq2seq"}))
@pytest.mark.parametrize("family", ["t5", "bart", "mbart", "pegasus", "led"])
def test_models_that_generate_text_are_refused_before_anything_starts(family, name, tmp_path):
    import transformers

    config = transformers.AutoConfig.for_model(family)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=rf"it is an encoder-decoder model \({family}\), which generates text; .*seq2seq"):
        check_architecture(tmp_path, "it", TASKS[name].auto_model)


@pytest.mark.parametrize("family", WRITERS)
def test_what_a_family_writes_is_what_its_loss_was_computed_for(family, tmp_path):
    """A few steps teach two answers by heart; the start and the end of an answer are then those of the training."""
    base = save_family(family, TEXT, tmp_path)
    model = load_model(TEXT, base)
    ids = torch.tensor([[11, 12, 13, 14], [21, 22, 23, 24]])
    mask = torch.ones_like(ids)
    end = model.config.eos_token_id
    start = [model.config.forced_bos_token_id] if getattr(model.config, "forced_bos_token_id", None) is not None else []
    labels = torch.tensor([[*start, 31, 32, 33, end], [*start, 41, 42, end, IGNORED]])
    decoder_ids = model.prepare_decoder_input_ids_from_labels(labels)
    loss = loss_function("text", TrainingSettings(), labels.tolist(), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss(model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids), labels).backward()
        optimizer.step()
    model.eval()
    for beams in (1, 3):
        written = write(model, ids, mask, Generation(max_new_tokens=8, num_beams=beams))
        answers = [[token for token in row if token >= 0 and token not in start] for row in written.tolist()]
        assert answers == [[31, 32, 33], [41, 42]]
    assert write(model, ids, mask, Generation(max_new_tokens=2)).shape == (2, 2)


@pytest.mark.parametrize("family", WRITERS)
def test_a_family_writes_the_same_beside_longer_sources(family, tmp_path):
    model = load_model(TEXT, save_family(family, TEXT, tmp_path)).eval()
    pad_id = model.config.pad_token_id
    ids = torch.tensor([[11, 12, 13, *[pad_id] * 5], [21, 22, 23, 24, 25, 26, 27, 28]])
    mask = torch.tensor([[1] * 3 + [0] * 5, [1] * 8])
    for generation in (Generation(max_new_tokens=12), Generation(max_new_tokens=12, num_beams=3)):
        together = write(model, ids, mask, generation)
        alone = write(model, ids[:1, :3], mask[:1, :3], generation)
        assert [it for it in together[0].tolist() if it >= 0] == [it for it in alone[0].tolist() if it >= 0]
