"""`baton feedback` and `baton live` on a real server: what is counted, what is told, and how it ends."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from services.cli import feedback_commands
from services.cli.line_files import ERRORS_SHOWN
from services.control import live_cache
from services.tables import show_feedback
from tests.cli.test_cli import Service, baton, failed, service, words
from tests.support.answers import correct_answers
from tests.support.growing import three_versions

__all__ = ["baton", "service"]  # fixtures


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"text {number}", "label": "a"} for number in range(start, start + count)]


def file_of(directory: Path, lines: Sequence[Any]) -> Path:
    path = directory / "corrections.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def stored(service: Service) -> list[str]:
    return [it.example["text"] for it in service.control.registry.feedback.all("m")]


def test_a_file_is_sent_and_sending_it_again_counts_nothing_twice(service, tmp_path):
    path = file_of(tmp_path, [*rows(3), {"id": "mine", "text": "with an id", "label": "b"}])
    assert words(service.ok("feedback", "m", path).out) == "4 accepted"
    assert words(service.ok("feedback", "m", path).out) == "0 accepted, 4 already known"
    assert stored(service) == ["text 0", "text 1", "text 2", "with an id"]
    names = [it.client_id for it in service.control.registry.feedback.all("m")]
    assert names[3] == "mine"
    assert all(name.startswith("content-") for name in names[:3])


def test_a_correction_is_corrected_and_withdrawn(service, tmp_path):
    path = file_of(tmp_path, [{"id": "x", "text": "hi", "label": "typo"}, {"id": "y", "text": "you", "label": "a"}])
    service.ok("feedback", "m", path)
    file_of(tmp_path, [{"id": "x", "text": "hi", "label": "a"}])
    assert words(service.ok("feedback", "m", path).out) == "1 accepted (1 in place of earlier ones with the same id)"
    done = service.run("feedback", "m", "--withdraw", "y", "--withdraw", "never")
    assert done.code == 1
    assert "1 correction withdrawn; the next data set does not have them" in words(done.out)
    assert "m has no correction with id 'never' that you sent" in words(done.err)
    assert stored(service) == ["hi"]
    assert service.ok("feedback", "m", "--withdraw-all", "--since", "2020-01-01", "--json").json == {"withdrawn": 1}
    listed = service.ok("feedback", "m", "--changes", "--json").json
    assert [(it["what"], it["client_id"], it["rows"]) for it in listed] == [
        ("withdrawn", None, 1), ("withdrawn", "y", 1), ("replaced", "x", 1),
    ]  # fmt: skip
    assert '{"label": "typo"}' in service.ok("feedback", "m", "--changes").out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "give one of: FILE, --withdraw ID, --withdraw-all, --changes"),
        (("--changes", "--withdraw-all"), "give one of"),
        (("--changes", "--sender", "k1"), "--sender, --since and --until say what --withdraw-all withdraws"),
        (("--withdraw-all",), "say which corrections: sender, since, until, or several of them"),
        (("--withdraw-all", "--since", "soon"), "since"),
    ],
)
def test_what_to_do_must_be_said(service, options, told):
    assert told in words(service.run("feedback", "m", *options).err)


def test_stdin_is_read_and_scripts_get_json(service, monkeypatch):
    text = "".join(json.dumps(row) + "\n" for row in rows(2))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    done = service.ok("feedback", "m", "-", "--json")
    assert done.json == {"accepted": 2, "duplicates": 0, "replaced": 0, "rejected": 0, "errors": [], "new_labels": []}
    assert done.err == ""


def test_labels_that_nothing_was_trained_on_are_told(service, tmp_path, monkeypatch):
    three_versions(service.control, tmp_path)
    monkeypatch.setattr(feedback_commands, "BATCH", 10)
    new = [{"text": f"text {number}", "label": f"new {number:02}"} for number in range(12)]
    path = file_of(tmp_path, [{"text": "a refund", "label": "billing"}, {"text": "a refnud", "label": "biling"}])
    done = service.ok("feedback", "m", path)
    assert service.ok("feedback", "m", path, "--json").json["new_labels"] == ["biling"]
    assert done.err.strip() == "labels that the newest data set does not have: 'biling'"
    done = service.ok("feedback", "m", file_of(tmp_path, new))
    assert words(done.err).endswith("'new 08', 'new 09' and 2 more")


def test_rejected_lines_are_told_by_their_numbers_and_end_with_status_1(service, tmp_path, monkeypatch):
    monkeypatch.setattr(feedback_commands, "BATCH", 3)
    lines = [*rows(2), "", {"text": "no label"}, '{"broken', "[1]", *rows(1, 2), {"text": "later", "lable": "a"}]
    path = file_of(tmp_path, lines)
    done = service("feedback", "m", path)
    assert done.code == 1
    assert words(done.out) == "3 accepted, 4 rejected"
    told = [line for line in done.err.splitlines() if line.startswith("line ")]
    assert told[0] == "line 4: field 'label' is missing; the row has 'text'"
    assert told[1] == "line 5: not valid JSON: Unterminated string starting at character 2"
    assert told[2] == "line 6: a JSON object is expected"
    assert told[3].startswith("line 8: unknown key 'lable'; did you mean 'label'? allowed: ")
    assert stored(service) == ["text 0", "text 1", "text 2"]
    done = service("feedback", "m", path, "--json")
    assert (done.code, done.json["duplicates"], done.json["rejected"]) == (1, 3, 4)
    assert [error["line"] for error in done.json["errors"]] == [4, 5, 6, 8]


def test_of_many_rejected_lines_the_first_are_shown(service, tmp_path):
    done = service("feedback", "m", file_of(tmp_path, ["{}"] * 150))
    assert done.code == 1
    assert done.err.count("line ") == ERRORS_SHOWN
    assert "… and 130 more; --json lists them" in done.err


def test_an_empty_file_is_no_failure(service, tmp_path):
    assert words(service.ok("feedback", "m", file_of(tmp_path, ["", " "])).out) == "0 accepted"


def test_a_file_that_is_not_there_and_a_model_that_nobody_knows_are_told(service, tmp_path):
    done = service("feedback", "m", tmp_path / "nowhere.jsonl")
    assert done.code == 2
    assert "No such file" in words(done.err)
    assert "unknown model 'nope'; declared models: m" in failed(service("feedback", "nope", file_of(tmp_path, rows(1))))


def test_an_interruption_tells_how_many_were_acknowledged(service, tmp_path, monkeypatch):
    monkeypatch.setattr(feedback_commands, "BATCH", 10)
    send, sent = feedback_commands._send, 0

    def until_ctrl_c(*arguments: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent == 3:
            raise KeyboardInterrupt
        return send(*arguments)

    monkeypatch.setattr(feedback_commands, "_send", until_ctrl_c)
    done = service("feedback", "m", file_of(tmp_path, rows(40)))
    assert done.code == 130
    assert "interrupted; 20 accepted; send the file again to continue" in words(done.err)
    assert len(stored(service)) == 20
    monkeypatch.setattr(feedback_commands, "_send", send)
    assert words(service.ok("feedback", "m", file_of(tmp_path, rows(40))).out) == "20 accepted, 20 already known"


def test_a_service_that_goes_away_in_between_leaves_an_account(service, tmp_path, monkeypatch):
    from baton.errors import NotReady

    monkeypatch.setattr(feedback_commands, "BATCH", 10)
    send, sent = feedback_commands._send, 0

    def gone(*arguments: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent == 3:
            raise NotReady("Baton does not answer")
        return send(*arguments)

    monkeypatch.setattr(feedback_commands, "_send", gone)
    done = service("feedback", "m", file_of(tmp_path, rows(40)))
    assert done.code == 1
    assert "20 accepted before this error; send the file again to continue error: Baton does not answer" in words(done.err)


def test_ten_thousand_lines_through_a_pipe_are_sent_in_batches(service, tmp_path):
    script = Path(sys.executable).with_name("baton")
    text = "".join(json.dumps(row) + "\n" for row in rows(10_000))
    done = subprocess.run([script, "feedback", "m", "-"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, words(done.stdout)) == (0, "10,000 accepted")
    assert service.control.registry.feedback.count_after("m", 0) == 10_000


# --- live quality --------------------------------------------------------------------------------------------------------


@pytest.fixture
def corrected(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """v1 with one right and one wrong answer, v2 with a right one."""
    monkeypatch.setattr(live_cache, "MAX_AGE_SECONDS", 0)  # the service has looked before: measure again
    correct_answers(service.control.registry, "m", [(1, "a", "a"), (1, "a", "b"), (2, "b", "b")])
    return service


def test_live_f1_is_shown_by_version_and_with_labels_by_label(corrected):
    text = corrected.ok("live", "m").out
    assert [line.split() for line in text.splitlines()[1:3]] == [["v2", "1.0000", "1"], ["v1", "0.3333", "2"]]
    assert "computed from at most the newest 500 corrections of each version" in words(text)
    labels = words(corrected.ok("live", "m", "--labels").out)
    assert "v1 label F1 precision recall corrections a 0.6667 0.5000 1.0000 1 b 0.0000 0.0000 0.0000 1" in labels
    items = corrected.ok("live", "m", "--json").json
    assert [(item["version"], item["corrections"]) for item in items] == [(2, 1), (1, 2)]


def test_on_a_terminal_a_bar_is_as_long_as_the_score():
    per_class = {"a": {"f1": 0.25, "precision": 0.5, "recall": 1.0, "support": 3}}
    items = [{"version": 2, "f1": 1.0, "corrections": 1, "per_class": per_class}]
    items += [{"version": 1, "f1": None, "corrections": 0, "per_class": {}}]
    for terminal, bars in ((True, [24, 0, 6]), (False, [0, 0, 0])):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
        console.print(show_feedback.live({"items": items, "window": 500}, labels=True))
        lines = [line for line in console.file.getvalue().splitlines() if re.match(r"(v2|v1|a) +\S+ ", line)]
        assert [line.count("█") for line in lines] == bars


def test_without_corrections_the_way_to_them_is_told(service):
    assert "no corrected answers yet" in words(service.ok("live", "m").out)
    assert service.ok("live", "m", "--json").json == []
    assert "unknown model 'nope'" in failed(service("live", "nope"))


def test_the_champions_live_f1_stands_in_the_status(corrected):
    [model] = corrected.ok("status", "--json").json["models"]
    assert (model["live_f1"], model["corrections"]) == (pytest.approx(1 / 3), 2)
    assert "0.3333 (2)" in words(corrected.ok("status").out)
