"""Few-shot training: a linear head on the frozen encoder's sentence embeddings, for about 8 rows a label, in seconds.

Runs in the process of its caller; needs no worker of Ray.
"""

from __future__ import annotations

import inspect
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.engines.torch_engine import OVERHEAD_TOKENS, bf16_pays, load_model
from baton.predict.packing import pack
from baton.predict.predictor import load_tokenizer
from baton.tasks import AnyTask, task_type
from baton.tasks.base import Windows
from training.data import datasets
from training.data.batches import Collator, encode, features
from training.data.splits import folds
from training.fit import weights
from training.fit.losses import loss_function
from training.fit.request import Trained, TrainingRequest
from training.methods import linear
from training.methods.pooling import family_of, pool_mean

STRENGTHS = (0.03, 0.3, 3.0, 30.0)
"""Regularisations to choose from; the larger, the weaker."""

DEFAULT_STRENGTH = 0.3
"""Where the rows are too few to choose."""

FOLDS = 5
PASS_TOKENS = 8192
"""Most tokens, padding included, of one forward pass."""


@contextmanager
def few_shot(request: TrainingRequest) -> Iterator[Trained]:
    """Fit a head to all training rows; the F1 is that of predictions for rows held back from it in their turn."""
    storage, task_cls = Storage(request.storage, patient=True), task_type(request.settings.task)
    rows = datasets.load_split(task_cls, storage, request.dataset.uri, "train")
    with tempfile.TemporaryDirectory(prefix="baton-few-shot-") as scratch:
        base = weights.fetch(request.start, request.settings, storage, Path(scratch) / "base").directory
        directory = Path(scratch) / "version"

        def report(done: int, total: int) -> None:
            request.progress(done=done, total=total)

        fitted = fit_head(base, request.settings, request.dataset.labels, rows, directory=directory, report=report)
        yield Trained(
            directory=directory,
            f1=fitted.f1,
            epoch=0,
            start=request.start,
            calibration=fitted.calibration,
            details={"few_shot": {"strength": fitted.strength, "folds": FOLDS}},
        )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """How a head was fitted, with what it scored on rows held back from it, and what it learned about its scores there."""

    strength: float
    f1: float
    calibration: Mapping[str, float]


def fit_head(
    base: Path,
    settings: ModelSettings,
    labels: Sequence[str],
    rows: Sequence[Any],
    *,
    directory: Path,
    report: Callable[[int, int], None],
) -> Fitted:
    """Write a classifier with the encoder in ``base`` and a head fitted to ``rows`` into ``directory``, for serving as it is.

    ``report(done, total)`` counts encoded windows. Dropout is off, and the encoder keeps its weights.

    Raises:
        ConfigError: a family of models whose head cannot pass sentence embeddings on.
    """
    task = settings.make_task(labels)
    wrapper = transformers.AutoTokenizer.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    wrapper.save_pretrained(str(directory))
    (directory / "config.json").write_bytes((base / "config.json").read_bytes())
    tokenizer, pad_id = load_tokenizer(directory)
    windows = encode(task, task.prepare_tokenizer(tokenizer), rows)
    transformers.set_seed(settings.training.seed)
    model = load_model(task.auto_model, base, labels).eval().requires_grad_(False)
    if task.target == "classes":
        model.config.problem_type = "multi_label_classification"
    family = family_of(model, settings.base_model)
    pool_mean(model, family)
    head = model.get_submodule(family.head)
    precise = settings.training.precision == "fp32" or (settings.training.precision == "auto" and not bf16_pays("cpu"))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not precise):
        embeddings = embed(model, head, features(task, windows, rows), pad_id, report)
    with one_thread():
        fitted, best = choose(task, embeddings, windows, rows, settings)
    head.weight.copy_(best.weight)
    head.bias.copy_(best.bias)
    model.save_pretrained(str(directory))
    return fitted


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads that wait for each other between two small products take longer than one alone, above all on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def embed(
    model: Any, head: Any, rows: Sequence[Mapping[str, Any]], pad_id: int, report: Callable[[int, int], None]
) -> torch.Tensor:
    """What reaches ``head``, the last layer of ``model``, for each of the windows ``rows``: fp32 [windows, features]."""
    collate = Collator(pad_id, inspect.signature(model.forward).parameters.keys() - {"labels"})
    reached: dict[int, torch.Tensor] = {}
    caught: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].float()))
    for chosen in pack(np.array([len(row["input_ids"]) for row in rows]), PASS_TOKENS, OVERHEAD_TOKENS["cpu"]):
        with torch.no_grad():
            model(**collate([rows[window] for window in chosen]))
        reached |= zip(chosen.tolist(), caught.pop(), strict=True)
        report(len(reached), len(rows))
    hook.remove()
    return torch.stack([reached[window] for window in range(len(rows))])


def choose(
    task: AnyTask, embeddings: torch.Tensor, windows: Windows, rows: Sequence[Any], settings: ModelSettings
) -> tuple[Fitted, linear.Linear]:
    """The head fitted to all rows, as regular as cross-validation wants it, and what that showed.

    Each row is predicted once by a head that has not seen it; these predictions choose the regularisation by their loss, and
    give the F1 and the calibration.
    """
    targets = torch.tensor(task.targets(rows, windows))
    labels = len(task.labels)
    loss = loss_function(task.target, settings.training, targets.tolist(), labels)
    part = torch.tensor(folds(type(task), rows, FOLDS))[torch.tensor(windows.owner)]

    def held_back(strength: float) -> torch.Tensor:
        logits = torch.zeros(len(embeddings), labels)
        for number in part.unique():
            theirs = part == number
            logits[theirs] = linear.fit(embeddings[~theirs], targets[~theirs], labels, loss, strength)(embeddings[theirs])
        return logits

    counts = Counter(type(task).strata(rows))
    candidates = STRENGTHS if np.median(list(counts.values())) >= 2 else (DEFAULT_STRENGTH,)
    tried = {strength: held_back(strength) for strength in candidates}
    strength = min(tried, key=lambda one: float(loss({"logits": tried[one]}, targets)))
    f1 = evaluate_held_out(task, windows, tried[strength], rows)
    fitted = Fitted(strength=strength, f1=f1, calibration=task.calibration)
    return fitted, linear.fit(embeddings, targets, labels, loss, strength)


def evaluate_held_out(task: AnyTask, windows: Windows, logits: torch.Tensor, rows: Sequence[Any]) -> float:
    """The main metric of predictions on ``rows``; a task that calibrates itself does so on them."""
    options = [task.Options()] * len(rows)
    outputs = task.decode(windows, {"logits": list(logits.numpy())}, options)
    if task.calibrates():
        task.calibration = task.calibrate(outputs, rows)
        outputs = task.decode(windows, {"logits": list(logits.numpy())}, options)
    return float(task.score(outputs, rows).metrics[task.metric])
