"""Bad versions, made from a good one: one that fails on some inputs, one that is slow, one that is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

SPOILT = "volcano"
"""The word, one token, whose embedding the failing version has lost. No row of the data has it."""

TIMES_THE_LAYERS = 10


def failing(good: Path, directory: Path) -> Path:
    """Copy ``good``; texts with `SPOILT` give numbers that are not finite, as after a training that diverged."""
    model, tokenizer = _load(good)
    with torch.no_grad():
        [token] = tokenizer.encode(SPOILT, add_special_tokens=False)
        model.get_input_embeddings().weight[token] = torch.nan
    return _save(model, good, directory)


def slow(good: Path, directory: Path) -> Path:
    """Copy ``good`` with ten times the layers: the same layers again and again, so that it is about ten times as slow."""
    model, _ = _load(good)
    encoder = model.base_model.encoder
    state = [layer.state_dict() for layer in encoder.layer]
    model.config.num_hidden_layers = TIMES_THE_LAYERS * len(state)
    larger = AutoModelForSequenceClassification.from_config(model.config)
    larger.load_state_dict(model.state_dict(), strict=False)
    for number, layer in enumerate(larger.base_model.encoder.layer):
        layer.load_state_dict(state[number % len(state)])
    return _save(larger, good, directory)


def wrong(good: Path, directory: Path) -> Path:
    """Copy ``good``; half of the labels have the scores of their neighbours."""
    model, _ = _load(good)
    with torch.no_grad():
        for parameter in (model.classifier.weight, model.classifier.bias):
            half = len(parameter) // 2
            parameter[:half] = parameter[:half].roll(1, dims=0)
    return _save(model, good, directory)


def _load(directory: Path) -> tuple[torch.nn.Module, AutoTokenizer]:
    model = AutoModelForSequenceClassification.from_pretrained(directory, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(directory, local_files_only=True)


def _save(model: torch.nn.Module, good: Path, directory: Path) -> Path:
    directory.mkdir()
    model.save_pretrained(directory)
    for file in good.iterdir():
        if file.is_file() and file.name != "baton.json" and not (directory / file.name).exists():
            shutil.copy(file, directory)
    return directory
