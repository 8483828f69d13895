"""The Prometheus configuration of a service on this machine: three targets, and the alert rules where they are at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

FILE = "prometheus.yml"
"""In the directory ``.baton``."""

KEY_FILE = "metrics-key"
"""Beside it: where Prometheus finds an API key, when the service asks for one."""

AUTHORIZATION = """\
    authorization: {{credentials_file: {file}}}  # baton keys create prometheus --scope metrics > {file}
"""

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yml"
"""In a checkout; an installed package has none."""

CONTROL, NODES, HAPROXY = "baton-control", "baton-nodes", "baton-haproxy"
"""Jobs, by which dashboards and rules know the targets."""

TEMPLATE = """\
# Written by `baton up` at each start: copy what you want to keep.
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
    """What Prometheus must read to watch the service at ``url`` whose other ports are ``ports``.

    ``key``: the file that holds an API key; None where the service asks for none.
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
