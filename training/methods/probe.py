"""A linear probe that training starts from (``training.start_from: probe``): a head that fits the base model's features.

With a new, random head the first steps of fine-tuning distort features that were good (Kumar et al. 2022, «Fine-Tuning can
Distort Pretrained Features and Underperform Out-of-Distribution»). The head is that of few-shot training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from baton.artifacts.storage import Storage
from baton.tasks import task_type
from training.data.replay import stratified_sample
from training.fit.request import Trained, TrainingRequest
from training.fit.start import select_rows
from training.methods.few_shot import fit

MAX_ROWS = 20_000
"""Most rows that a probe is fitted to, a sample of each label: more would hardly change a linear head."""

TUNING_COST = 3.0
"""Time of fine-tuning on a row over that of encoding it: a forward and a backward pass."""


@contextmanager
def probe(request: TrainingRequest) -> Iterator[tuple[Trained, float]]:
    """Fit a probe to the rows that training will see; validation rows are left out.

    Yield it, and the seconds that fine-tuning it will take on this machine.
    """
    settings, task_cls = request.settings, task_type(request.settings.task)
    training = settings.training
    rows = select_rows(request.start, settings, Storage(request.storage, patient=True), request.dataset.uri).train
    sample = rows if len(rows) <= MAX_ROWS else stratified_sample(task_cls, rows, MAX_ROWS, training.seed)
    plain = training.model_copy(update={"label_smoothing": 0.0})  # for a head that can serve: a linear one is not too certain
    ask = replace(request, settings=settings.model_copy(update={"training": plain}))
    with fit(ask, sample) as (directory, fitted):
        assert training.epochs is not None, "the recipe gives a number"
        seconds = fitted.encoding_seconds * len(rows) / len(sample) * TUNING_COST * training.epochs
        found = {"f1": fitted.f1, "rows": len(sample), "strength": fitted.strength}
        yield (
            Trained(
                directory=directory,
                f1=fitted.f1,
                epoch=0,
                start=request.start,
                training=training.model_copy(update={"few_shot": True}),
                calibration=fitted.calibration,
                details={"probe": found},
            ),
            seconds,
        )
