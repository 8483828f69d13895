"""Two versions side by side: scores on the same holdout, labels, costs, and what differs in how they were made."""

from __future__ import annotations

import pytest

from services.console.comparison import differences, label_changes, sides
from tests.support.local_control import decide, publish

COMPARE = "/console/models/m/compare"


def test_a_version_stands_beside_the_champion_unless_another_is_chosen(browser):
    text = browser.text(f"{COMPARE}?b=3")
    assert "Scores and costs v2 champion v3 Difference" in text
    assert "−0.400" in text
    assert "v1 v3 Difference" in browser.text(f"{COMPARE}?a=1&b=3")
    assert "v1 v2 champion Difference" in browser.text(f"{COMPARE}?b=2"), "the champion stands beside the one before it"
    assert 'href="?a=2&amp;b=1"' in browser._page
    assert "v2 champion v3" in browser.text(COMPARE)


def test_intervals_are_those_of_the_gate_on_the_same_holdout(browser):
    (first, second), same = sides(browser.registry, "m", (2, 3))
    numbers = browser.registry.newest_gate_decision("m", 3).numbers
    assert same
    assert [first.interval, second.interval] == [tuple(numbers["champion_f1_interval"]), tuple(numbers["f1_interval"])]
    low, high = first.interval
    assert f"0.900 {low:.3f} to {high:.3f}" in browser.text(f"{COMPARE}?a=2&b=3")


def test_versions_of_different_holdouts_are_compared_with_a_warning(browser):
    registry = browser.registry
    number = registry.versions.reserve("m", None)
    registry.versions.publish("m", number, uri="/x", manifest_sha256="a" * 64, metrics={"f1": 0.7}, lineage={})
    assert "never evaluated on the same holdout" in browser.text(f"{COMPARE}?a=2&b={number}")
    assert "0.900" in browser.text(f"{COMPARE}?a={number}&b=2")


def test_labels_costs_and_settings_that_differ_are_listed(browser):
    registry = browser.registry
    scores = {"billing <b>": {"f1": 0.5, "support": 10}, "gone": {"f1": 0.9, "support": 1}}
    publish(registry, "m", 80, per_class=scores, megabytes=1000.5, latency_ms=2.0, confidence={"ece": 0.02})
    scores = {"billing <b>": {"f1": 0.25, "support": 10}, "new": {"f1": 1.0, "support": 3}}
    publish(registry, "m", 80, run_id="r", per_class=scores, megabytes=10.5, latency_ms=3.5, confidence={"ece": 0.05})
    decide(registry, "m", 5)
    text = browser.text(f"{COMPARE}?a=4&b=5")
    assert "billing <b> 0.500 0.250 −0.250 10 gone 0.900 – – 1 new – 1.000 – 3" in text
    assert "<b>" not in browser._page
    assert "Calibration error (ECE) 0.020 0.050 +0.030" in text
    assert "Size, MB 1,000.5 10.5 −990.0" in text
    assert "One answer, ms 2.0 3.5 +1.5" in text
    (first, second), _ = sides(registry, "m", (4, 5))
    assert [change.name for change in label_changes(first, second)] == ["billing <b>", "gone", "new"]
    first.version.lineage["training"] |= {"epochs": 3, "lora": {"rank": 8}}  # type: ignore[index]
    second.version.lineage["training"] |= {"epochs": 5, "lora": {"rank": 8}}  # type: ignore[index]
    assert list(differences(first, second)) == [("training.epochs", "3", "5")]


def test_without_two_versions_there_is_nothing_to_compare(browser):
    assert "There are not two versions" in browser.text("/console/models/other/compare")
    publish(browser.registry, "other", 50)
    assert "There are not two versions" in browser.text("/console/models/other/compare")
    assert "v1 v1 Difference" in browser.text("/console/models/other/compare?a=1&b=1")


@pytest.mark.parametrize(("query", "status"), [("a=x", 422), ("a=0&b=1", 422), ("a=9&b=1", 404), ("b=99999999999", 422)])
def test_versions_that_are_not_there_are_refused(browser, query, status):
    assert browser.get(f"{COMPARE}?{query}").status_code == status
