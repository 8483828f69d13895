"""A linear probe that training starts from (``training.start_from: probe``): a head that fits the base model's features.

With a new, random head the first steps of fine-tuning distort features that were good (Kumar et al. 2022, «Fine-Tuning can
Distort Pretrained Features and Underperform Out-of-Distribution»). The head is that of few-shot training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from baton.artifacts.storage import Storage
from baton.tasks import task_type
from training.data.replay import stratified_sample
from training.fit.request import TrainingRequest
from training.fit.start import select_rows
from training.methods.few_shot import fit

MAX_ROWS = 20_000
"""Most rows that a probe is fitted to, in the process of the run's driver; of more it takes a sample."""


@contextmanager
def probe(request: TrainingRequest) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Fit a probe to the rows that training will see; validation rows are left out.

    Yield its directory, which ends with the ``with`` block, and facts for the lineage.
    """
    settings = request.settings
    rows = select_rows(request.start, settings, Storage(request.storage, patient=True), request.dataset.uri).train
    if len(rows) > MAX_ROWS:
        rows = stratified_sample(task_type(settings.task), rows, MAX_ROWS, settings.training.seed)
    plain = settings.training.model_copy(update={"label_smoothing": 0.0})  # with smoothing it is half a point worse
    with fit(replace(request, settings=settings.model_copy(update={"training": plain})), rows) as (directory, fitted):
        yield directory, {"f1": fitted.f1, "rows": len(rows), "strength": fitted.strength}
