"""Few-shot training: a linear head on the frozen encoder's sentence embeddings, for about 8 rows per label, in seconds.

It runs in the caller's process and needs no Ray worker.
"""

from __future__ import annotations

import functools
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
from baton.engines.torch_engine import OVERHEAD_TOKENS, has_fast_bf16, load_model
from baton.predict.packing import pack
from baton.tasks import AnyTask, task_type
from baton.tasks.windows import Windows
from training.data import datasets
from training.data.batches import Collator, encode, features
from training.data.splits import folds
from training.fit import weights
from training.fit.losses import loss_function
from training.fit.request import Trained, TrainingRequest
from training.methods import linear
from training.methods.pooling import family_of, pool_mean

STRENGTHS = (0.03, 0.3, 3.0, 30.0)
"""Candidates for the strength of the head (see `linear.fit`): the larger, the weaker its regularisation."""

DEFAULT_STRENGTH = 0.3
"""The strength where there are too few rows to choose one."""

FOLDS = 5
"""Folds of the cross-validation that chooses the strength."""

MANY_ROWS = 2000
"""Rows above which one fold suffices to compare strengths: its loss tells them apart."""

MAX_PASS_TOKENS = 8192
"""Maximum tokens of one forward pass, padding included."""


@contextmanager
def few_shot(request: TrainingRequest) -> Iterator[Trained]:
    """Fit a head to all training rows, and yield it with the encoder. The F1 comes from cross-validation."""
    storage, task_cls = Storage(request.storage, patient=True), task_type(request.settings.task)
    rows = datasets.load_split(task_cls, storage, request.dataset.uri, "train")
    with fit(request, rows) as (directory, fitted):
        yield Trained(
            directory=directory,
            f1=fitted.f1,
            epoch=0,
            start=request.start,
            calibration=fitted.calibration,
            details={"few_shot": {"strength": fitted.strength, "folds": FOLDS}},
        )


@contextmanager
def fit(request: TrainingRequest, rows: Sequence[Any]) -> Iterator[tuple[Path, FittedHead]]:
    """Fit a head to ``rows``. Yield the classifier's directory, which the ``with`` block ends with, and how it was fitted."""
    storage = Storage(request.storage, patient=True)
    with tempfile.TemporaryDirectory(prefix="baton-few-shot-") as scratch:
        base = weights.fetch(request.start, request.settings, storage, Path(scratch) / "base").directory
        directory = Path(scratch) / "version"

        def report(done: int, total: int) -> None:
            request.progress(done=done, total=total)

        yield directory, fit_head(base, request.settings, request.dataset.labels, rows, directory=directory, report=report)


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """The result of fitting a head. The head's weights are in the directory that `fit_head` wrote."""

    strength: float
    """The chosen strength."""
    f1: float
    """The task's main metric, cross-validated."""
    calibration: Mapping[str, float]
    """The calibration of the scores, from the cross-validation; empty if the task does not calibrate."""
    held_out: torch.Tensor
    """[rows, labels]: the logits of each row by a head that was not fitted to it; of several windows, their mean."""


def fit_head(
    base: Path,
    settings: ModelSettings,
    labels: Sequence[str],
    rows: Sequence[Any],
    *,
    directory: Path,
    report: Callable[[int, int], None],
) -> FittedHead:
    """Write a classifier with the encoder in ``base`` and a head fitted to ``rows`` into ``directory``, ready for serving.

    The encoder keeps its weights, and dropout is off.

    Args:
        base: Hugging Face directory of the base model.
        settings: the model's settings.
        labels: the labels of the head, in the order of its outputs.
        rows: the training rows.
        directory: where to write the classifier.
        report: called with the number of encoded windows and the number of all windows.

    Raises:
        ConfigError: the base model's family is not one of `pooling.FAMILIES`.
    """
    task = settings.make_task(labels)
    wrapper = transformers.AutoTokenizer.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    tokenizer, pad_id = weights.save_tokenizer(wrapper, base, directory)
    windows = encode(task, task.prepare_tokenizer(tokenizer), rows)
    transformers.set_seed(settings.training.seed)
    model = load_model(task.auto_model, base, labels).eval().requires_grad_(False)
    if task.target == "classes":
        model.config.problem_type = "multi_label_classification"
    family = family_of(model, settings.base_model)
    pool_mean(model, family)
    head = model.get_submodule(family.head)
    precision = settings.training.precision
    bf16 = precision == "bf16" or (precision == "auto" and has_fast_bf16("cpu"))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        embeddings = embed(model, head, features(task, windows, rows), pad_id, report)
    with one_thread():
        fitted, linear_head = fit_linear_head(task, embeddings, windows, rows, settings)
    head.weight.copy_(linear_head.weight)
    head.bias.copy_(linear_head.bias)
    model.save_pretrained(str(directory))
    return fitted


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block with one torch thread.

    It is faster for small matrices: several threads wait for each other between two products, above all on busy cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def embed(
    model: Any, head: Any, rows: Sequence[Mapping[str, Any]], pad_id: int, report: Callable[[int, int], None]
) -> torch.Tensor:
    """Return the sentence embedding of each window, fp32 [windows, features].

    These are the inputs of ``head``, the last layer of ``model``. ``rows`` are the features of the windows. ``report`` is
    called with the number of encoded windows and the number of all windows.
    """
    collate = Collator(pad_id, inspect.signature(model.forward).parameters.keys() - {"labels"})
    embedding_of_window: dict[int, torch.Tensor] = {}
    head_inputs: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: head_inputs.append(inputs[0].float()))
    for batch in pack(np.array([len(row["input_ids"]) for row in rows]), MAX_PASS_TOKENS, OVERHEAD_TOKENS["cpu"]):
        with torch.no_grad():
            model(**collate([rows[window] for window in batch]))
        embedding_of_window |= zip(batch.tolist(), head_inputs.pop(), strict=True)
        report(len(embedding_of_window), len(rows))
    hook.remove()
    return torch.stack([embedding_of_window[window] for window in range(len(rows))])


def fit_linear_head(
    task: AnyTask, embeddings: torch.Tensor, windows: Windows, rows: Sequence[Any], settings: ModelSettings
) -> tuple[FittedHead, linear.Linear]:
    """Choose the strength by cross-validation, and fit a head with it to all rows.

    Every row is predicted once by a head that was not fitted to it. The strength whose predictions have the lowest loss is
    chosen (of many rows, a fold decides); its predictions also give the F1 and the calibration.
    """
    targets = torch.tensor(task.targets(rows, windows))
    labels = len(task.labels)
    loss = loss_function(task.target, settings.training, targets.tolist(), labels)
    fold_of_window = torch.tensor(folds(type(task), rows, FOLDS))[torch.tensor(windows.owner)]
    numbers = fold_of_window.unique().tolist()

    @functools.cache
    def logits_of(strength: float, fold: int) -> torch.Tensor:
        held = fold_of_window == fold
        return linear.fit(embeddings[~held], targets[~held], labels, loss, strength)(embeddings[held])

    def loss_of(strength: float, of_folds: Sequence[int]) -> float:
        logits = torch.cat([logits_of(strength, fold) for fold in of_folds])
        return float(loss({"logits": logits}, torch.cat([targets[fold_of_window == fold] for fold in of_folds])))

    rows_per_label = Counter(type(task).strata(rows))
    candidates = STRENGTHS if np.median(list(rows_per_label.values())) >= 2 else (DEFAULT_STRENGTH,)
    strength = candidates[0]
    compared = numbers if len(rows) <= MANY_ROWS else numbers[:1]
    for weaker in candidates[1:]:  # the weakest regularisation takes longest: stop once the loss rises
        if loss_of(weaker, compared) >= loss_of(strength, compared):
            break
        strength = weaker
    logits = torch.zeros(len(embeddings), labels)
    for fold in numbers:
        logits[fold_of_window == fold] = logits_of(strength, fold)
    f1 = evaluate_held_out(task, windows, logits, rows)
    owner = torch.tensor(windows.owner)
    sums = torch.zeros(len(rows), labels).index_add_(0, owner, logits)
    held_out = sums / torch.bincount(owner, minlength=len(rows)).unsqueeze(1)
    fitted = FittedHead(strength=strength, f1=f1, calibration=task.calibration, held_out=held_out)
    return fitted, linear.fit(embeddings, targets, labels, loss, strength)


def evaluate_held_out(task: AnyTask, windows: Windows, logits: torch.Tensor, rows: Sequence[Any]) -> float:
    """Return the task's main metric of the predictions ``logits`` for ``rows``.

    A task that calibrates is calibrated on these predictions first, and keeps that calibration.
    """
    options = [task.Options()] * len(rows)
    outputs = task.decode(windows, {"logits": list(logits.numpy())}, options)
    if task.calibrates():
        task.calibration = task.calibrate(outputs, rows)
        outputs = task.decode(windows, {"logits": list(logits.numpy())}, options)
    return float(task.score(outputs, rows).metrics[task.metric])
