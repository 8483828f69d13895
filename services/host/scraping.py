"""The Prometheus configuration for a service on this machine: three targets, and the alert rules if this is a checkout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

FILE = "prometheus.yml"
"""File name in the directory ``.baton``."""

KEY_FILE = "metrics-key"
"""File in the same directory from which Prometheus reads an API key, if the service requires one. The user writes it."""

AUTHORIZATION = """\
    authorization: {{credentials_file: {file}}}  # baton keys create prometheus --scope metrics > {file}
"""

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yml"
"""The alert rules in a checkout; an installed package has none."""

CONTROL, NODES, HAPROXY = "baton-control", "baton-nodes", "baton-haproxy"
"""Job names of the targets. Dashboards and rules use them."""

TEMPLATE = """\
# Written by `baton up` at each start: your changes are lost unless you keep them in a copy.
global:
  scrape_interval: 15s
  evaluation_interval: 15s
rule_files: [{rules}]
scrape_configs:
  - job_name: {control}  # the control plane's /metrics
    static_configs: [targets: [{url}]]
{authorization}  - job_name: {nodes}  # Ray's agent: the replicas, and Ray itself
    static_configs: [targets: ["127.0.0.1:{metrics}"]]
  - job_name: {haproxy}  # HAProxy: requests as clients see them
    static_configs: [targets: ["127.0.0.1:{haproxy_metrics}"]]
"""


def scrape_config(url: str, ports: Mapping[str, int], key: Path | None, rules: Path = RULES) -> str:
    """Return the configuration with which Prometheus scrapes the service at ``url``.

    ``ports``: the instance's other ports, by name.
    ``key``: the file that contains an API key; None if the service requires none.
    """
    return TEMPLATE.format(
        rules=json.dumps(str(rules)) if rules.is_file() else "",
        url=json.dumps(urlsplit(url).netloc),
        authorization="" if key is None else AUTHORIZATION.format(file=json.dumps(str(key))),
        control=CONTROL,
        nodes=NODES,
        haproxy=HAPROXY,
        metrics=ports["metrics"],
        haproxy_metrics=ports["haproxy_metrics"],
    )
