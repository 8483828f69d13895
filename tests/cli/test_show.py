"""What tables say beside their numbers."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from baton.client import Prediction
from services.tables import show, show_feedback, show_predictions, show_report, show_runs


def text_of(renderable: Any, width: int = 120) -> str:
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def version(number: int, holdout: str, **training: Any) -> dict[str, Any]:
    return {
        "number": number,
        "champion": False,
        "moves": [],
        "rolled_back": False,
        "rejected": None,
        "metrics": {"f1": 0.5},
        "lineage": {"dataset": {"train_rows": 10, "holdout_rows": 4, "holdout_hash": holdout}, "training": training},
        "created_at": "2026-11-24T10:00:00+00:00",
    }


def test_scores_on_different_holdouts_are_told_apart():
    note = "these F1 scores were measured on different holdouts"
    assert note not in text_of(show.versions([version(2, "a"), version(1, "a")]))
    assert note in text_of(show.versions([version(2, "b"), version(1, "a")]))


def test_a_version_that_bypassed_the_gate_is_marked_for_ever():
    forced = {**version(2, "a"), "moves": ["force", "rollback"]}
    note = "! became champion by force, without the gate"
    assert note in text_of(show.versions([forced, version(1, "a")]))
    assert note not in text_of(show.versions([{**forced, "moves": ["gate"]}, version(1, "a")]))


def test_a_version_that_was_rolled_back_is_marked_for_ever():
    told = text_of(show.versions([{**version(2, "a"), "rolled_back": True, "moves": ["force"]}, version(1, "a")]))
    assert "↩ was taken out of service by a rollback" in told
    assert told.splitlines()[1].startswith("!↩ ")
    assert "↩" not in text_of(show.versions([version(2, "a")]))


def test_the_engine_of_each_version_is_shown_and_each_reason_against_a_faster_one_once():
    reason = "onnx cpu int8 scores 0.030 less on the holdout (allowed: 0.005)"
    served = [version(number, "a") for number in (3, 2, 1)]
    for item, engine, why in zip(
        served, ("onnx cpu fp32", "onnx cpu fp32", "torch cpu fp32"), (reason, reason, ""), strict=True
    ):
        item["lineage"] |= {"engine": engine, "engine_reason": why}
    told = text_of(show.versions(served))
    assert (told.count("onnx cpu fp32"), told.count("torch cpu fp32")) == (2, 1)
    assert told.count(reason) == 1
    assert f"engine of v3: {reason}" in told


def test_the_matches_of_a_champion_and_what_is_left_for_the_next_are_shown():
    told = text_of(show.matches({"matches": {"played": 4, "left": 0.0217, "of": 0.05}}))
    assert "match 4 on this holdout, 2.17% of 5.0% left for the next" in told
    assert "no match yet" in text_of(show.matches({"matches": {"played": 0, "left": 0.05, "of": 0.05}}))


def test_a_few_shot_version_is_called_so():
    told = text_of(show.versions([version(2, "a", tune="full", few_shot=True), version(1, "a", tune="full")]))
    assert [line.split()[5] for line in told.splitlines()[1:]] == ["few-shot", "full"]


def test_a_runs_id_stays_whole_on_a_narrow_terminal():
    run = {
        "id": "intents-20261124-140156-61a1d7",
        "state": "failed",
        "stage": "training",
        "progress": {},
        "version": None,
        "started_at": None,
        "finished_at": None,
        "reason": "the worker died of something that takes many words to describe",
        "cause": None,
        "verdict": None,
        "source": None,
    }
    assert "intents-20261124-140156-61a1d7" in text_of(show_runs.runs([run]), width=60)


def test_a_label_that_nobody_corrected_has_no_score():
    scores = {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    item = {
        "version": 1,
        "f1": 0.5,
        "corrections": 3,
        "per_class": {"bug": {**scores, "support": 0}, "billing": {**scores, "f1": 0.5, "support": 3}},
    }
    told = text_of(show_feedback.live({"items": [item], "window": 500}, labels=True))
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines() if line.startswith(("bug", "billing"))}
    assert rows == {"bug": ["–", "–", "–", "0"], "billing": ["0.5000", "0.0000", "0.0000", "3"]}


# --- reports -------------------------------------------------------------------------------------------------------------


def gained(name: str, f1: float, champion_f1: float, error: float = 0.02) -> dict[str, Any]:
    gain = f1 - champion_f1
    numbers = {"f1": f1, "champion_f1": champion_f1, "gain": gain, "low": gain - 2 * error, "high": gain + 2 * error}
    return {"name": name, "texts": 120, **numbers}


def reported(**changes: Any) -> str:
    found = {
        "unit": "text",
        "candidate": 3,
        "champion": 2,
        "rows": [gained("all texts", 0.9, 0.8), gained("language de", 0.7, 0.75)],
        "labels": [gained("billing", 0.9, 0.8), gained("bug", 0.5, 0.9)],
        "confusions": [{"truth": "bug", "answer": "billing", "count": 9, "champion_count": 1}],
        "changed": [
            {"text": "it broke", "truth": "bug", "answer": "billing (0.51)", "champion_answer": None, "influence": -0.01}
        ],
        "cost": [{"megabytes": 91.4, "latency_ms": 3.25}, None],
        "optimism": 0.0081,
        **changes,
    }
    return text_of(show_report.report({"decision": {"sentence": "Promote: v3 …", "verdict": "promote"}, "report": found}), 160)


def test_a_report_has_its_sentence_its_tables_and_its_notes():
    told = reported()
    assert told.startswith("Promote: v3 …")
    lines = told.splitlines()
    bug = next(number for number, line in enumerate(lines) if line.startswith("bug "))
    assert lines[bug].split()[1:5] == ["120", "0.900", "0.500", "-0.400"]
    assert lines[bug + 1].startswith("billing"), "the largest loss comes first"
    assert any(line.split() == ["bug", "billing", "1", "9"] for line in lines)
    assert any(line.split() == ["it", "broke", "bug", "–", "billing", "(0.51)"] for line in lines)
    assert "v3: 91.4 MB, 3.2 ms for one answer" in told
    assert "the gain of v3 looks about 0.8 points of F1 larger than it is" in told


def test_intervals_are_drawn_on_one_scale_around_zero():
    whole, part = [line for line in reported().splitlines() if "●" in line][:2]
    assert whole.index("┊") < whole.index("├") < whole.index("●") < whole.index("┤")
    assert part.index("├") < part.index("●") < part.index("┊") == whole.index("┊")


def test_a_report_of_a_first_version_shows_only_what_there_is():
    label = {"name": "billing", "texts": 12, "f1": 0.9, "champion_f1": None}
    told = reported(champion=None, rows=[], labels=[label], confusions=[], changed=[], optimism=0.0)
    assert "in holdout" in told
    assert "larger than it is" not in told
    assert "●" not in told


def test_a_watched_run_tells_its_recipe_once():
    console = Console(width=120)
    running = {"stage": "training", "state": "running", "version": None, "progress": {}}
    recipe = {"recipe": "from a probe; 3 epochs at a learning rate of 0.0001"}
    with console.capture() as captured, show_runs.progress(console, quiet=False) as update:
        for progress in ({}, recipe, recipe, {"epoch": 1.0, "epochs": 3, "step": 1, "steps": 2}):
            update({**running, "progress": progress})
    assert captured.get().splitlines().count("recipe: from a probe; 3 epochs at a learning rate of 0.0001") == 1


def test_the_method_of_a_version_names_its_probe():
    told = text_of(show.versions([version(2, "a", tune="full", start_from="probe"), version(1, "a", few_shot=True)]))
    assert ("probe, full" in told, "few-shot" in told) == (True, True)


def predicted(**headers: Any) -> Prediction:
    why = {"baseline": 0.3, "parts": [{"start": 0, "end": 2, "score": 0.01}, {"start": 3, "end": 10, "score": 0.55}]}
    best = {"label": "billing", "score": 0.86, "explanation": why}
    outputs = [[best, {"label": "bug", "score": 0.14}], [{"label": "bug", "score": 0.4}]]
    facts: dict[str, Any] = {"answer_id": "a", "request_id": "r", "version": 3, "queue_ms": 0.1, "inference_ms": 2.0}
    return Prediction(outputs=outputs, **facts, **headers)


def test_an_explanation_shows_what_the_words_that_matter_add():
    told = text_of(show_predictions.predictions("classification", ["my invoice", "hello"], predicted()))
    assert "why billing: my invoice +0.55  (without any word 0.30)" in told, "a word that adds nothing has no number"
    assert told.count("why ") == 1
    assert "unsure" not in told


def test_answers_that_are_too_unsure_are_named():
    told = text_of(show_predictions.predictions("classification", ["my invoice", "hello"], predicted(unsure=(1,))))
    assert "the answer to text 2 is too unsure to act on" in told


def test_what_a_model_wrote_stands_below_its_source():
    outputs = [{"generated_text": "Hallo"}, {"generated_text": ""}]
    answer = Prediction(outputs=outputs, answer_id="a1", request_id="r1", version=3, queue_ms=0.1, inference_ms=5.0)
    told = text_of(show_predictions.predictions("seq2seq", ["hello", "?"], answer))
    assert [line.strip() for line in told.splitlines()][:4] == ["hello", "Hallo", "?", "no text"]
