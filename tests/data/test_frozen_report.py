"""What a run reports about the data set that it froze: feedback included, and every row that was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from baton.store.feedback.correction import Correction
from baton.store.records import RunStage
from tests.support.world import World
from training import looking, pipeline
from training.data import frozen_report


@pytest.fixture
def world(tiny_base: Path, tmp_path: Path) -> World:
    world = World(tiny_base, tmp_path, rows=60)
    world.registry.declare_model("m", world.settings().model_dump(mode="json"))
    return world


def write(world: World, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    (world.directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(label: str, word: str, count: int) -> list[dict[str, str]]:
    return [{"text": f"the {word} number {number} is odd", "label": label} for number in range(count)]


def report_of(world: World) -> dict[str, Any]:
    """What the first step of a run reports."""
    seen: list[dict[str, Any]] = []
    context = world.context()
    context.clock._report = lambda stage, progress: seen.append({"stage": stage, **progress})
    pipeline.prepare(context)
    [report] = [one for one in seen if "data" in one]
    assert report["stage"] == RunStage.PREPARING
    return json.loads(json.dumps(report["data"]))  # as the registry keeps it


def told(report: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    return [(one["level"], one["what"], one["rows"]) for one in report["findings"]]


def test_sound_data_are_described_and_nothing_is_found(world: World):
    write(world, "train", rows_of("a", "invoice", 40) + rows_of("b", "parcel", 40))
    write(world, "holdout", rows_of("a", "bill", 20) + rows_of("b", "letter", 20))
    report = report_of(world)
    assert told(report) == []
    assert (report["task"], report["usable"], report["max_length"]) == ("classification", True, 128)
    train, holdout = report["splits"]
    assert (train["name"], train["rows"], train["labels"]) == ("train", 80, {"a": 40, "b": 40})
    assert (holdout["name"], holdout["rows"], holdout["labels"]) == ("holdout", 40, {"a": 20, "b": 20})
    assert train["source"].endswith("train.jsonl")
    assert train["scripts"] == {"Latin": 1.0}
    assert (train["tokens"]["cut"], train["tokens"]["max"] > 5) == (0.0, True)


def test_what_was_left_out_and_what_is_odd_is_found_also_in_feedback(world: World):
    fine = rows_of("a", "invoice", 40) + rows_of("b", "parcel", 40)
    leak = {"text": "the bill number 3 is odd", "label": "a"}
    write(world, "train", [*fine, fine[0], {**fine[1], "label": "b"}, leak, {"text": "N/A", "label": "a"}])
    write(world, "holdout", rows_of("a", "bill", 20) + rows_of("b", "letter", 20))
    sent = [{"text": "<b>where</b> is it", "label": "b"}, {"text": "seldom seen", "label": "unheard of"}]
    world.registry.feedback.add("m", [Correction(example=row, client_id=None) for row in sent])
    report = report_of(world)
    assert report["splits"][0]["labels"] == {"a": 40, "b": 42}
    assert sorted(told(report)) == sorted(
        [
            ("warning", "quarantined", 1),
            ("warning", "left out for another answer to the same text (data.conflicts)", 1),
            ("warning", "train rows left out, because their text is in the holdout, or once was", 1),
            ("note", "repeated rows, which count once", 1),
            ("warning", "train: HTML", 1),
            ("warning", "train: a placeholder instead of a text", 1),
        ]
    )
    places = {one["what"]: one["examples"] for one in report["findings"]}
    assert places["train: HTML"] == ["train row 82: '<b>where</b> is it'"]
    assert "unheard of" in places["quarantined"][0]
    [conflict] = places["left out for another answer to the same text (data.conflicts)"]
    assert conflict.endswith(': {"label": "b"} kept (latest)')


def test_a_report_that_cannot_be_made_does_not_end_the_run(world: World, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise RuntimeError("a drop-in task that says nothing of its texts")

    monkeypatch.setattr(looking, "look_at", broken)
    assert pipeline.prepare(world.context()).version.train_rows == 60


def test_of_many_texts_some_are_looked_at_and_all_are_counted(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frozen_report, "MOST_TEXTS", 30)
    write(world, "train", [{"text": f"<br> {number}", "label": "ab"[number % 2]} for number in range(100)])
    write(world, "holdout", rows_of("a", "bill", 20) + rows_of("b", "letter", 20))
    report = report_of(world)
    assert report["splits"][0]["labels"] == {"a": 50, "b": 50}
    assert told(report) == [("warning", "train: HTML", 25)]
