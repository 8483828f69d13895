"""What logs say: one JSON object a line with what it is about, and no text of a user's."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._common.formatters import JSONFormatter as RayJson
from ray._common.formatters import TextFormatter as RayText

from baton import logs
from baton.config.file import BatonConfig, LoggingSettings, load_config
from services.app import serve_logging
from tests.cluster.conftest import environment
from tests.support.local_control import configured
from tests.support.waiting import free_port

SECRET = "my cat is called Xanthippe"


@pytest.fixture
def concealing() -> Iterator[None]:
    """A process that conceals texts, for the length of a test."""
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)
    logs.conceal_texts()
    logs.conceal_texts()
    yield
    logging.setLogRecordFactory(before)


@pytest.fixture
def frank() -> Iterator[None]:
    """A process that conceals nothing: an earlier test may have had a replica in this one."""
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)
    yield
    logging.setLogRecordFactory(before)


def said(formatter: logging.Formatter, speak: Any, facts: Mapping[str, Any] | None = None) -> str:
    """What a logger of its own writes while ``speak(logger)`` runs."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger(f"test.{id(stream)}")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    if facts is not None:
        logs.add_facts(logger, lambda: {"model": "old"})
        logs.add_facts(logger, lambda: facts)
    speak(logger)
    return stream.getvalue()


def stumble(logger: logging.Logger) -> None:
    """An error as a library may raise it: its message, and those of its causes, quote what was asked."""
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as cause:
            raise RuntimeError(f"cannot read {SECRET!r}") from cause
    except RuntimeError:
        logger.exception("request %s failed", "r1")


def test_a_line_is_one_json_object_with_time_level_logger_and_message():
    text = said(logs.JsonFormatter(), lambda logger: logger.warning("two\nlines of %s", "ü"))
    assert text.count("\n") == 1
    line = json.loads(text)
    assert (line["levelname"], line["message"]) == ("WARNING", "two\nlines of ü")
    assert line["name"].startswith("test.")
    assert line["asctime"][:2] == "20"


def test_a_line_says_what_it_is_about_and_the_record_knows_best():
    facts = {"model": "m", "version": 3, "run_id": None}
    line = json.loads(said(logs.JsonFormatter(), lambda it: it.info("x", extra={"version": 4, "other": "y"}), facts))
    assert {name: line.get(name) for name in (*logs.FACTS, "other")} == {
        "request_id": None,
        "model": "m",
        "version": 4,
        "run_id": None,
        "other": None,
    }


def test_our_lines_have_the_keys_of_ray_serves_own():
    theirs = RayJson()
    theirs.set_additional_log_standard_attrs(["name"])
    ours, rays = (set(json.loads(said(it, lambda logger: logger.info("x")))) for it in (logs.JsonFormatter(), theirs))
    assert ours == rays - {"timestamp_ns"}


@pytest.mark.parametrize("formatter", [logs.JsonFormatter, logging.Formatter, RayJson, RayText])
def test_an_exception_is_told_by_its_type_and_place_and_not_by_its_message(concealing, formatter):
    text = said(formatter(), stumble)
    assert "request r1 failed" in text
    assert "builtins.RuntimeError" in text
    assert "builtins.KeyError" in text
    assert "in stumble" in text
    assert "Xanthippe" not in text


def test_an_exception_may_say_its_message_where_that_is_asked_for(frank):
    assert f"cannot read '{SECRET}'" in json.loads(said(logs.JsonFormatter(), stumble))["exc_text"]


def test_ray_serve_is_told_the_format():
    assert serve_logging(LoggingSettings()) == {"encoding": "TEXT"}
    assert serve_logging(LoggingSettings(format="json")) == {"encoding": "JSON", "additional_log_standard_attrs": ["name"]}


def test_texts_stay_out_of_logs_unless_asked_for(tmp_path):
    assert configured(tmp_path, "m").logging == LoggingSettings(format="text", texts=False)
    path = tmp_path / "baton.yaml"
    path.write_text(yaml.safe_dump(configured(tmp_path, "m").model_dump(mode="json")))
    loaded = load_config(path, {"BATON_LOGGING_FORMAT": "json", "BATON_LOGGING_TEXTS": "true"})
    assert loaded.logging == LoggingSettings(format="json", texts=True)


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_the_supervisor_says_in_json_why_it_cannot_start(tmp_path):
    config: BatonConfig = configured(tmp_path, "m")
    changes = {"http": {"port": free_port()}, "storage": "/dev/null/storage", "logging": {"format": "json"}}
    blocked = {**config.model_dump(mode="json"), **changes}
    (tmp_path / "baton.yaml").write_text(yaml.safe_dump(blocked))
    command = [sys.executable, "-m", "services.cli", "up", "-c", str(tmp_path / "baton.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    last = lines(done.stderr)[-1]
    assert (last["levelname"], last["name"]) == ("ERROR", "baton")
    assert last["message"].startswith("cannot write to storage /dev/null/storage: ")


def test_a_job_says_in_json_why_it_ended(tmp_path):
    variables = {
        "BATON_LOGGING_FORMAT": "json",
        "BATON_DATABASE": f"sqlite:///{tmp_path}/baton.db",
        "BATON_STORAGE": str(tmp_path / "storage"),
    }
    command = [sys.executable, "-m", "training", "judge", "m", "1"]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(variables), cwd=root, check=False)
    assert done.returncode == 1
    [line] = lines(done.stderr)
    assert (line["levelname"], line["name"]) == ("ERROR", "baton")
    assert "the database is at schema None" in line["message"]
