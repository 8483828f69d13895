"""Dashboards, alerts, runbook and scrape configuration match the existing metrics and the tools that read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from services import metrics
from services.host.scraping import CONTROL, RULES, scrape_config
from tests.support.queries import DASHBOARDS, alerts, dashboard, panel_queries

ROOT = Path(__file__).parents[2]
LABELS: Mapping[str, tuple[str, ...]] = {
    **{name: labels for metric in metrics.METRICS for name, labels in metric.series.items()},
    **metrics.FOREIGN,
}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian: apt-get install prometheus)"
)


def promtool(*arguments: str | Path) -> str:
    """Return the output of promtool. Fail unless its exit status is 0."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- queries -------------------------------------------------------------------------------------------------------------


def mistakes(query: str) -> list[str]:
    """Return names in a query that no metric has, and labels in its matchers, aggregations and joins that its metrics lack."""
    found: list[str] = []
    _known(promql.parse(query), found)
    return found


def _known(expression: Any, found: list[str]) -> set[str]:
    """Return the labels that all metrics in ``expression`` have. Append errors to ``found``."""
    if isinstance(expression, promql.MatrixSelector):
        expression = expression.vector_selector
    if isinstance(expression, promql.VectorSelector):
        if expression.name not in LABELS:
            found.append(f"no metric {expression.name}")
            return set()
        labels = {*LABELS[expression.name], *metrics.SCRAPE_LABELS}
        used = [matcher.name for matcher in expression.matchers.matchers]
        found += [f"{expression.name} has no label {label}" for label in used if label not in labels]
        return labels
    inner = [_known(part, found) for part in _parts(expression)]
    labels = set.intersection(*inner) if inner else {*metrics.LABELS, *metrics.SCRAPE_LABELS}
    kept = _kept(expression)
    found += [f"not all metrics in {expression} have {label}" for label in kept or () if label not in labels]
    return labels if kept is None else set(kept)


def _parts(expression: Any) -> list[Any]:
    if isinstance(expression, promql.BinaryExpr):
        return [expression.lhs, expression.rhs]
    if isinstance(expression, promql.Call):
        return list(expression.args)
    if isinstance(expression, promql.AggregateExpr | promql.ParenExpr | promql.UnaryExpr | promql.SubqueryExpr):
        return [expression.expr]
    assert isinstance(expression, promql.NumberLiteral | promql.StringLiteral), expression
    return []


def _kept(expression: Any) -> list[str] | None:
    """Return the labels of an aggregation's «by» or a join's «on»; None without them."""
    if isinstance(expression, promql.AggregateExpr) and expression.modifier is not None:
        return list(expression.modifier.labels)
    if isinstance(expression, promql.BinaryExpr) and expression.modifier and expression.modifier.matching:
        return list(expression.modifier.matching.labels)
    return None


@pytest.mark.parametrize(
    ("query", "mistake"),
    [
        ("rate(baton_nothing[5m])", "no metric baton_nothing"),
        ('baton_runs_total{status="failed"}', "has no label status"),
        ("sum by (version) (baton_champion_f1)", "have version"),
        ("baton_live_f1 < on (version) baton_live_f1_floor", "have version"),
        ("sum by (le) (rate(ray_baton_request_seconds_sum[5m]))", "have le"),
    ],
)
def test_a_name_or_a_label_that_no_metric_has_is_found(query, mistake):
    assert [mistake in found for found in mistakes(query)] == [True]


def all_queries() -> Iterator[Any]:
    for where, query in panel_queries():
        yield pytest.param(query, id=where)
    for alert in alerts():
        yield pytest.param(alert["expr"], id=alert["alert"])


@pytest.mark.parametrize("query", list(all_queries()))
def test_every_query_uses_metrics_and_labels_that_there_are(query):
    assert mistakes(query) == []


def test_every_metric_is_on_a_dashboard():
    shown = " ".join(query for _, query in panel_queries())
    missing = [metric.name for metric in metrics.METRICS if not any(re.search(rf"\b{name}\b", shown) for name in metric.series)]
    assert missing == []


# --- dashboards ----------------------------------------------------------------------------------------------------------


def lost(before: Any, after: Any, where: str) -> Iterator[str]:
    """Yield the paths of values in ``before`` that are missing or different in ``after``."""
    if isinstance(before, dict):
        for key, value in before.items():
            if isinstance(after, dict) and key in after:
                yield from lost(value, after[key], f"{where}.{key}")
            elif value not in ({}, [], None):
                yield f"{where}.{key}"
    elif isinstance(before, list):
        for index, value in enumerate(before):
            yield from lost(value, after[index], f"{where}[{index}]")
    elif before != after:
        yield where


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_grafana_knows_every_key_of_a_dashboard(file):
    register_default_plugins()
    content = json.loads(file.read_text(encoding="utf-8"))
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(content)))  # drops keys that Grafana's schema does not have
    assert list(lost(content, read, file.stem)) == []


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_every_panel_says_what_it_shows_in_which_unit_and_lets_its_source_and_model_be_chosen(file):
    board = dashboard(file)
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "model"]
    assert [panel["id"] for panel in board["panels"]] == list(range(1, len(board["panels"]) + 1))
    for panel in board["panels"]:
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            chosen = "$model" in target["expr"] or not re.search(r"\b(ray_)?baton_(?!registry_up)", target["expr"])
            assert chosen, f"{panel['title']}: {target['expr']}"


def test_the_provisioned_data_source_and_files_are_what_the_dashboards_want():
    provisioning = ROOT / "deploy/grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    [provider] = yaml.safe_load((provisioning / "dashboards/baton.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert len({dashboard(file)["uid"] for file in DASHBOARDS}) == 3


# --- alert rules ---------------------------------------------------------------------------------------------------------


@needs_promtool
def test_promtool_accepts_the_rules():
    assert f"{len(alerts())} rules found" in promtool("check", "rules", RULES)


@needs_promtool
def test_each_alert_fires_where_it_must_and_stays_silent_where_it_must():
    promtool("test", "rules", RULES.with_name("rules_test.yml"))


def test_every_alert_is_tested_and_has_its_section_in_the_runbook():
    tested = RULES.with_name("rules_test.yml").read_text(encoding="utf-8")
    runbook = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\w+)$", runbook, re.MULTILINE)
    assert sections == [alert["alert"] for alert in alerts()]
    for alert in alerts():
        assert f'alertname="{alert["alert"]}"' in tested
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"
        assert alert["annotations"]["summary"]
    for section in re.split(r"^## ", runbook, flags=re.MULTILINE)[1:]:
        assert all(part in section for part in ("**Meaning.**", "**Look at.**", "**Do.**")), section.splitlines()[0]


# --- scrape configuration ------------------------------------------------------------------------------------------------

PORTS = {"metrics": 8080, "haproxy_metrics": 9101}


def test_the_scrape_configuration_names_three_targets_and_the_rules_where_they_are():
    config = yaml.safe_load(scrape_config("http://127.0.0.1:8123", PORTS, None))
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert targets == {
        "baton-control": ["127.0.0.1:8123"],
        "baton-nodes": ["127.0.0.1:8080"],
        "baton-haproxy": ["127.0.0.1:9101"],
    }
    assert config["rule_files"] == [str(RULES)]


def test_without_a_checkout_the_scrape_configuration_has_no_rules(tmp_path):
    assert yaml.safe_load(scrape_config("http://[::1]:8000", PORTS, None, tmp_path / "rules.yml"))["rule_files"] == []


@needs_promtool
def test_promtool_accepts_the_scrape_configuration_also_with_a_key(tmp_path):
    file, key = tmp_path / "prometheus.yml", tmp_path / "key"
    key.write_text("secret")
    for credentials in (None, key):
        file.write_text(scrape_config("http://[::1]:8000", PORTS, credentials))
        assert f"{len(alerts())} rules found" in promtool("check", "config", file)
    [control] = [job for job in yaml.safe_load(file.read_text())["scrape_configs"] if job["job_name"] == CONTROL]
    assert control["authorization"] == {"credentials_file": str(key)}
