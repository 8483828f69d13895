"""Looks at data files before anything trains on them: what they hold, and what is wrong or odd about them. Read `check` first.

Knows neither feedback nor the registry: a run merges these files with both (`training.data.datasets`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from baton.artifacts.frozen import HOLDOUT, TRAIN
from baton.config.model_settings import DataSettings
from baton.errors import DataError
from baton.tasks import AnyTask
from baton.wording import counted
from training.data.findings import EXAMPLES, LABELS_NAMED, DataReport, Findings, Look
from training.data.marks import marker
from training.data.remarks import Remarks, look_alikes
from training.data.sourced_rows import BASE, SourcedRow, sourced
from training.data.sources import located, read


def check(data: DataSettings, look: Look, *, min_rows: int = 0) -> DataReport:
    """Read the files of ``data`` and look at them.

    Args:
        min_rows: how many different texts the gate wants in the holdout.

    Files that cannot be read make an error among the findings, with the message of a run.
    """
    task_cls = look.task_cls
    findings, remarks, splits = Findings(), Remarks(), {}
    sources = {TRAIN: (data.train, "train"), HOLDOUT: (data.holdout if isinstance(data.holdout, str) else None, "test")}
    for name, (source, hub_split) in sources.items():
        if source is None:
            continue
        mark = marker(data, for_holdout=name == HOLDOUT or not isinstance(data.holdout, str))
        marked = [*filter(None, [data.group_column]), *data.slices]
        try:
            examples = located(task_cls, data.fields, read(source, hub_split), source, mark, remarks=remarks, marked=marked)
        except DataError as error:
            findings.add("error", str(error))
            continue
        splits[name] = (source, sourced(task_cls, BASE, examples))
    _check_holdout(findings, data, {name: len(rows) for name, (_, rows) in splits.items()}, min_rows)
    findings.add_remarks(remarks)
    described = []
    for name, (source, rows) in splits.items():
        _check_rows(task_cls, name, rows, findings)
        texts = [(row.where, task_cls.content(row.example)) for row in rows]
        labels = dict(_label_rows(task_cls, rows).most_common())
        described.append(look.at(name, texts, findings, source=source, rows=len(rows), labels=labels))
    _check_labels(task_cls, {name: rows for name, (_, rows) in splits.items()}, findings)
    if len(splits) == len((TRAIN, HOLDOUT)):
        _check_leaks(splits[TRAIN][1], splits[HOLDOUT][1], findings)
    return DataReport(task=task_cls.name, splits=described, findings=findings.sorted())


def _check_holdout(findings: Findings, data: DataSettings, rows: Mapping[str, int], min_rows: int) -> None:
    """Warn of a holdout that is too small to judge any version: people hear of it before they have trained one."""
    if isinstance(data.holdout, float):
        held_out, whence = round(data.holdout * rows.get(TRAIN, 0)), f", {data.holdout:g} of {rows.get(TRAIN, 0):,}"
    else:
        held_out, whence = rows.get(HOLDOUT, min_rows), ""
    if TRAIN in rows and held_out < min_rows:
        findings.add(
            "warning",
            f"the holdout gets {counted(held_out, 'row')}{whence}, and the gate asks for {min_rows} texts that differ "
            "(gate.min_rows): no version can take over. Add rows, or hold out a larger part (data.holdout)",
        )


def _check_rows(task_cls: type[AnyTask], name: str, rows: Sequence[SourcedRow], findings: Findings) -> None:
    by_content: dict[str, list[SourcedRow]] = {}
    for row in rows:
        by_content.setdefault(row.content, []).append(row)
    repeated, contradicting = [], []
    for same in by_content.values():
        if len({row.answer for row in same}) > 1:
            contradicting.append(f"{', '.join(f'{row.where} {row.answer}' for row in same[:EXAMPLES])}")
        repeated += [f"{row.where} repeats {same[0].where}" for row in same[1:] if row.answer == same[0].answer]
    if contradicting:
        findings.add("warning", f"{name}: texts with different answers (data.conflicts chooses one)", contradicting)
    if repeated:
        findings.add("note", f"{name}: repeated rows, which count once", repeated)
    if limits := task_cls.limits([row.example for row in rows]):
        findings.add("warning", f"{name}: {limits}")


def _check_labels(task_cls: type[AnyTask], splits: Mapping[str, Sequence[SourcedRow]], findings: Findings) -> None:
    counts = {name: _label_rows(task_cls, rows) for name, rows in splits.items()}
    for remark in look_alikes(sum(counts.values(), Counter())):
        findings.add("warning", remark)
    if TRAIN not in counts:
        return
    findings.add_rare(counts[TRAIN])
    if unknown := [label for label in counts.get(HOLDOUT, ()) if label not in counts[TRAIN]]:
        findings.add("error", f"the holdout has labels that train lacks: {', '.join(map(repr, unknown[:LABELS_NAMED]))}")
    try:
        task_cls.labels_of([row.example for row in splits[TRAIN]])
    except DataError as error:
        findings.add("error", str(error))


def _label_rows(task_cls: type[AnyTask], rows: Sequence[SourcedRow]) -> Counter[str]:
    return Counter(label for row in rows for label in task_cls.labels_in(row.example))


def _check_leaks(train: Sequence[SourcedRow], holdout: Sequence[SourcedRow], findings: Findings) -> None:
    judged = {row.group: row.where for row in holdout}
    if leaks := [f"{row.where} is {judged[row.group]}" for row in train if row.group in judged]:
        findings.add("warning", "train rows whose text is in the holdout, too: a run leaves them out", leaks)
