"""The page on refusals has every reason of the gate, with a sentence that the gate says."""

from __future__ import annotations

import re
from pathlib import Path

from baton.config.model_settings import GateSettings
from baton.store.records import Verdict
from tests.docs.markdown import ROOT
from tests.judge.test_sentences import comparison, first, label, outcome, part
from training.judge.gate import KNOWN_LABELS, Cost, FirstOutcome, Outcome, Reason
from training.judge.guards import Guard
from training.judge.sentences import explain, explain_first

PAGE: Path = ROOT / "docs" / "refusals.md"
PROMOTES = {Reason.GAIN, Reason.HIGH_ENOUGH}
POLICY = GateSettings(max_megabytes=100, max_latency_ms=20)

NO, UNSURE = Verdict.REJECT, Verdict.INCONCLUSIVE
COST = Cost(megabytes=438.2, latency_ms=31.4)
EXAMPLES: list[Outcome | FirstOutcome] = [
    first(UNSURE, Reason.FEW_ROWS, 0.9, 0.8, groups=21),
    first(NO, Reason.TOO_LOW, 0.412, 0.363),
    first(UNSURE, Reason.BOUND_TOO_LOW, 0.54, 0.437),
    outcome(NO, Reason.NO_GAIN, comparison(0.871, 0.879)),
    outcome(UNSURE, Reason.NOT_SURE, comparison(0.893, 0.879, p=1 / 49), number=3),
    outcome(UNSURE, Reason.NOT_SURE, comparison(0.89, 0.879, differing=4, p=1 / 16)),
    outcome(NO, Reason.LABEL_LOST, comparison(0.893, 0.879), labels=[label("card", 0.5, 0.9, lost=True)]),
    outcome(NO, Reason.SLICE_LOST, comparison(0.893, 0.879), slices=[label("language de", 0.7, 0.82, lost=True)]),
    outcome(NO, Reason.PART_LOST, comparison(0.893, 0.879), parts=[part("audited requests", -0.1, Guard.LOST)]),
    outcome(UNSURE, Reason.LOSS_POSSIBLE, comparison(0.915, 0.879), parts=[part(KNOWN_LABELS, -0.015, Guard.UNKNOWN)]),
    outcome(NO, Reason.TOO_LARGE, comparison(0.914, 0.879), cost=COST),
    outcome(NO, Reason.TOO_SLOW, comparison(0.914, 0.879), cost=COST),
]


def said(example: Outcome | FirstOutcome) -> str:
    if isinstance(example, FirstOutcome):
        return explain_first(example, 1, None, POLICY)
    return explain(example, 7, 6, POLICY)


def test_every_reason_of_a_refusal_is_explained():
    assert {it.reason for it in EXAMPLES} == set(Reason) - PROMOTES


def test_the_sentences_of_the_page_are_those_of_the_gate():
    quoted = re.findall(r"^> (.*(?:\n> .*)*)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    shown = [it.replace("\n> ", " ") for it in quoted]
    assert sorted(shown) == sorted(said(it).split("answered differently: ")[-1] for it in EXAMPLES)
