"""Looks at a frozen data set, with all the feedback in it: the report that a run keeps. Read `look_at` first.

`training.data.checking` looks at files before they are merged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from baton.artifacts.frozen import TRAIN
from baton.store.records import DatasetVersion
from training.data.findings import DataReport, Findings, Level, Look

MOST_TEXTS = 50_000
"""Texts of a split that are looked at, evenly spread: of a million rows more would take longer than freezing them."""


def look_at(version: DatasetVersion, splits: Mapping[str, Sequence[Any]], look: Look) -> DataReport:
    """Return what the splits of a data set hold, what was left out of them, and what is odd about their texts.

    Args:
        splits: the examples of each split.
    """
    findings = Findings()
    findings.add_remarks(version.remarks)
    _add_account(version, findings)
    described = []
    for name, examples in splits.items():
        stride = -(-len(examples) // MOST_TEXTS) or 1
        texts = [(f"{name} row {at + 1}", look.task_cls.content(examples[at])) for at in range(0, len(examples), stride)]
        labels: Counter[str] = Counter()
        for rows in version.counts.get(name, {}).values():
            labels.update(rows)
        source, named = version.sources.get(name, "feedback"), dict(labels.most_common())
        described.append(look.at(name, texts, findings, source=source, rows=len(examples), labels=named))
        if name == TRAIN:
            findings.add_rare(named)
    return DataReport(task=look.task_cls.name, splits=described, findings=findings.sorted())


def _add_account(version: DatasetVersion, findings: Findings) -> None:
    """Add the rows that are in no split, by the reason."""
    conflicts = version.conflicts
    texts = [
        f"{one['text']}: {json.dumps(one['kept'], ensure_ascii=False)} kept ({one['by']})"
        for one in conflicts.get("examples", ())
    ]
    quarantined = [f"{row['where']}: {row['reason']}" for row in version.quarantined]
    leaks = "train rows left out, because their text is in the holdout, or once was"
    account: Sequence[tuple[Level, str, int, Sequence[str]]] = (
        ("warning", "quarantined", version.quarantined_rows, quarantined),
        ("warning", "left out for another answer to the same text (data.conflicts)", conflicts.get("dropped", 0), texts),
        ("warning", leaks, version.removed_leaks, ()),
        ("warning", "left out of one sender's many (data.max_sender_share)", version.over_share, ()),
        ("note", "repeated rows, which count once", version.removed_duplicates, ()),
        ("note", "feedback on texts that judge, which neither trains nor judges", version.set_aside, ()),
    )
    for level, what, rows, places in account:
        if rows:
            findings.add(level, what, places, rows=rows)
