"""`baton audit` on a real server: what is shown, what is written to a file, and how labels are sent and told."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from baton.config.model_settings import ModelSettings
from baton.errors import NotReady
from baton.quality.audit import BATCH
from services.cli import audit_commands
from services.cli.line_files import ERRORS_SHOWN
from services.replica.audit_draw import AuditDraw
from services.tables.show_audit import TEXT_CHARACTERS
from tests.cli.test_cli import GOOD, Service, baton, failed, service, words, write

__all__ = ["baton", "service"]  # fixtures


def draw(service: Service, count: int, start: int = 0, text: str = "text {}") -> list[int]:
    """Draw texts as a replica does. Return the ids of everything that was drawn."""
    settings = {"name": "m", "task": "classification", "data": {"train": "train.jsonl"}, "feedback": {"audit": 0.999999}}
    inputs = [{"text": text.format(number), "text_pair": None} for number in range(start, start + count)]
    audit = service.control.registry.audit
    AuditDraw(ModelSettings.model_validate(settings), audit).draw(inputs)
    return [item.id for item in audit.items("m")]


def file_of(directory: Path, lines: Sequence[Any]) -> Path:
    path = directory / "labels.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def answers(service: Service) -> list[str | None]:
    return [None if it.example is None else it.example["label"] for it in service.control.registry.audit.items("m")]


# --- what is shown -------------------------------------------------------------------------------------------------------


def test_the_batches_and_the_next_texts_are_shown(service, tmp_path):
    ids = draw(service, 2 * BATCH + 5)
    lines = [{"id": number, "label": "a"} for number in ids[:BATCH]] + [{"id": ids[BATCH], "undecidable": True}]
    service.ok("audit", "m", "--labels", file_of(tmp_path, lines))
    text = service.ok("audit", "m", "--limit", 3).out
    shown = [" ".join(line.split()) for line in text.splitlines()]
    assert shown[:4] == [
        "1 of 3 batches judge, with 50 labelled texts",
        "batch texts labelled undecidable state",
        "2 50 0 1 44 more to label",
        "3 5 0 0 45 more to be drawn, 45 more to label",
    ]
    assert shown[5:9] == [
        "id text",
        *(f"{number} text {place}" for place, number in list(enumerate(ids))[BATCH + 1 : BATCH + 4]),
    ]
    assert shown[9] == "and more: --limit shows them, --out FILE writes all of them"


def test_scripts_get_the_page_as_json_and_no_answer_of_the_model(service):
    [number] = draw(service, 1)
    page = service.ok("audit", "m", "--json").json
    assert page["batches"][0]["texts"] == 1
    [item] = page["items"]
    assert set(item) == {"id", "drawn_at", "text"}
    assert (item["id"], item["text"]) == (number, "text 0")


def test_a_batch_of_which_too_many_texts_were_deleted_is_told(service):
    draw(service, BATCH)
    service.control.registry.audit.forget("m", datetime.now(UTC) + timedelta(days=1))
    text = words(service.ok("audit", "m").out)
    assert "cannot judge: 50 texts were deleted before anybody labelled them" in text
    assert text.endswith("nothing is left to label")


def test_before_anything_is_drawn_it_is_told_what_will_be(service):
    text = words(service.ok("audit", "m").out)
    assert text.startswith("0 of 0 batches judge")
    assert text.endswith("nothing was drawn yet; a share of 0.02 of the logged requests is (feedback.audit)")


def test_a_long_text_is_cut_in_the_table_and_whole_in_the_file(service, tmp_path):
    draw(service, 1, text="word " * 200)
    assert len(words(service.ok("audit", "m").out).split("1 word")[-1]) < TEXT_CHARACTERS
    service.ok("audit", "m", "--out", tmp_path / "todo.jsonl")
    assert json.loads((tmp_path / "todo.jsonl").read_text())["text"] == "word " * 200


def test_a_model_that_nobody_knows_is_told_and_leaves_no_file(service, tmp_path):
    assert "unknown model 'nope'; declared models: m" in failed(service("audit", "nope"))
    assert "unknown model 'nope'" in failed(service("audit", "nope", "--out", tmp_path / "todo.jsonl"))
    assert "unknown model 'nope'" in failed(service("audit", "nope", "--labels", file_of(tmp_path, [{"id": 1}])))
    assert not (tmp_path / "todo.jsonl").exists()


def test_without_a_service_the_way_to_start_it_is_told(baton, tmp_path):
    path = write(tmp_path, {**GOOD, "http": {"port": 1}})  # where nobody listens
    assert failed(baton("audit", "m", "-c", path)).endswith("start it with `baton up`")


# --- the file of texts ---------------------------------------------------------------------------------------------------


def test_all_texts_to_label_are_written_to_a_file_page_by_page(service, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_commands, "PAGE", 3)
    ids = draw(service, 7)
    path = tmp_path / "todo.jsonl"
    assert words(service.ok("audit", "m", "--out", path).out) == f"7 texts to label are in {path}"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"id": number, "text": f"text {place}"} for place, number in enumerate(ids)]


def test_the_file_may_be_sent_back_with_an_answer_in_each_line(service, tmp_path):
    draw(service, 3, text='Größe {}\u2028 北京 \\ " ')
    path = tmp_path / "todo.jsonl"
    service.ok("audit", "m", "--out", path)
    assert "Größe 0" in path.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    done = service.ok("audit", "m", "--labels", file_of(tmp_path, [{**line, "label": "a"} for line in lines]))
    assert words(done.out) == "3 labelled"
    assert answers(service) == ["a", "a", "a"]
    path.unlink()
    assert words(service.ok("audit", "m", "--out", path).out).startswith("0 texts to label")
    assert path.read_text() == ""


def test_stdout_gets_the_texts_and_nothing_else(service):
    draw(service, 2)
    script = Path(sys.executable).with_name("baton")
    done = subprocess.run([script, "audit", "m", "--out", "-"], capture_output=True, text=True, check=True)
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["text 0", "text 1"]
    assert done.stderr == ""


def test_a_file_that_exists_is_not_overwritten_because_it_may_hold_labels(service, tmp_path):
    draw(service, 1)
    path = tmp_path / "todo.jsonl"
    path.write_text("my labels")
    assert failed(service("audit", "m", "--out", path)).endswith("may contain labels; give another name, or delete it")
    assert path.read_text() == "my labels"
    told = failed(service("audit", "m", "--out", tmp_path / "nowhere" / "todo.jsonl"))
    assert told.endswith("cannot be written: No such file or directory")


def test_writing_texts_and_sending_labels_at_once_is_refused(service, tmp_path):
    done = service("audit", "m", "--out", tmp_path / "todo.jsonl", "--labels", file_of(tmp_path, []))
    assert done.code == 2
    assert "give --out or --labels, not both" in words(done.err)


# --- labels --------------------------------------------------------------------------------------------------------------


def test_labels_are_sent_in_chunks_and_sending_them_again_stores_nothing_twice(service, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_commands, "BATCH", 2)
    ids = draw(service, 4)
    lines = [*({"id": number, "label": "a"} for number in ids[:3]), {"id": ids[3], "undecidable": True}]
    path = file_of(tmp_path, lines)
    for _ in range(2):
        assert words(service.ok("audit", "m", "--labels", path).out) == "3 labelled, 1 undecidable"
        assert answers(service) == ["a", "a", "a", None]
        assert len(service.control.registry.feedback.newest("m", 100)) == 3


def test_stdin_is_read_and_scripts_get_json(service, monkeypatch):
    [number] = draw(service, 1)
    line = json.dumps({"id": number, "label": "a"})
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line.encode())))
    done = service.ok("audit", "m", "--labels", "-", "--json")
    assert done.json == {"labelled": 1, "undecidable": 0, "rejected": 0, "errors": []}
    assert done.err == ""


def test_rejected_lines_are_told_by_their_numbers_and_end_with_status_1(service, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_commands, "BATCH", 3)
    first, second = draw(service, 2)
    lines = [{"id": first, "label": "a"}, "", {"id": second}, '{"broken', "[1]", {"label": "a"}, {"id": second, "label": "b"}]
    path = file_of(tmp_path, lines)
    done = service("audit", "m", "--labels", path)
    assert done.code == 1
    assert words(done.out) == "2 labelled, 4 rejected"
    told = done.err.splitlines()
    assert told[0] == f"line 3: text {second}: field 'label' is missing; the row has 'text'"
    assert told[1].startswith("line 4: not valid JSON: ")
    assert told[2] == "line 5: a JSON object is expected"
    assert told[3].startswith("line 6: id: None: the id of a text of the audit is expected")
    assert answers(service) == ["a", "b"]
    done = service("audit", "m", "--labels", path, "--json")
    assert (done.code, [error["line"] for error in done.json["errors"]]) == (1, [3, 4, 5, 6])


def test_a_file_of_which_no_line_can_be_used_is_told_line_by_line(service, tmp_path):
    done = service("audit", "m", "--labels", file_of(tmp_path, [{"id": 0, "label": "a"}] * 150))
    assert done.code == 1
    assert words(done.out) == "0 labelled, 150 rejected"
    assert done.err.count("line ") == ERRORS_SHOWN
    assert "… and 130 more; --json lists them" in done.err


def test_a_line_with_half_of_a_surrogate_pair_is_told_and_costs_no_other(service, tmp_path):
    [number] = draw(service, 1)
    done = service(
        "audit", "m", "--labels", file_of(tmp_path, [{"id": number, "label": "\ud800"}, {"id": number, "label": "a"}])
    )
    assert done.code == 1
    assert words(done.out) == "1 labelled, 1 rejected"
    assert answers(service) == ["a"]


def test_an_empty_file_is_no_failure_and_a_missing_one_is(service, tmp_path):
    assert words(service.ok("audit", "m", "--labels", file_of(tmp_path, ["", " "])).out) == "0 labelled"
    done = service("audit", "m", "--labels", tmp_path / "nowhere.jsonl")
    assert done.code == 2
    assert "No such file" in words(done.err)


@pytest.mark.parametrize(
    ("stop", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "interrupted; 20 labelled; send the file again to continue"),
        (
            NotReady("Baton does not answer"),
            1,
            "20 labelled before this error; send the file again to continue error: Baton does not answer",
        ),
    ],
    ids=["Ctrl-C", "no service"],
)
def test_what_stops_in_between_leaves_an_account_of_what_is_stored(service, tmp_path, monkeypatch, stop, code, told):
    monkeypatch.setattr(audit_commands, "BATCH", 10)
    path = file_of(tmp_path, [{"id": number, "label": "a"} for number in draw(service, 40)])
    send, sent = audit_commands._send, 0

    def until_it_stops(*arguments: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent == 3:
            raise stop
        return send(*arguments)

    monkeypatch.setattr(audit_commands, "_send", until_it_stops)
    done = service("audit", "m", "--labels", path)
    assert done.code == code
    assert told in words(done.err)
    assert answers(service) == ["a"] * 20 + [None] * 20
    monkeypatch.setattr(audit_commands, "_send", send)
    assert words(service.ok("audit", "m", "--labels", path).out) == "40 labelled"
    assert len(service.control.registry.feedback.newest("m", 100)) == 40


def test_the_help_teaches_with_an_example(baton):
    text = words(baton("audit", "--help").out)
    assert "baton audit intents --out todo.jsonl, add the right answer to each line" in text
    assert "baton audit intents --labels todo.jsonl" in text
