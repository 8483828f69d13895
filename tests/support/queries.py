"""The queries of all dashboards and alert rules, as Prometheus receives them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from services.host.scraping import RULES

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))


def dashboard(file: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return board


def panel_queries(model: str = ".*", window: str = "1m") -> Iterator[tuple[str, str]]:
    """Yield (where, query) for each query of a panel or an annotation, with Grafana's variables replaced."""
    for file in DASHBOARDS:
        board = dashboard(file)
        queries = [
            (f"{file.stem}: {panel['title']} {target['refId']}", target["expr"])
            for panel in board["panels"]
            for target in panel["targets"]
        ]
        queries += [(f"{file.stem}: {note['name']}", note["expr"]) for note in board["annotations"]["list"]]
        for where, query in queries:
            yield where, query.replace("$model", model).replace("$__rate_interval", window)


def alerts() -> list[dict[str, Any]]:
    """Return all alert rules."""
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
