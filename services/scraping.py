"""The Prometheus configuration of a service on this machine: three targets, and the alert rules where they are at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

FILE = "prometheus.yml"
"""In the directory ``.baton``."""

RULES = Path(__file__).parents[1] / "deploy" / "prometheus" / "rules.yml"
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
    # authorization: {{credentials_file: FILE}}  # with API keys: a file that holds one
  - job_name: {nodes}  # Ray's agent: the replicas, and Ray itself
    static_configs: [targets: ["127.0.0.1:{metrics}"]]
  - job_name: {haproxy}  # HAProxy: requests as clients see them
    static_configs: [targets: ["127.0.0.1:{haproxy_metrics}"]]
"""


def scrape_config(url: str, ports: Mapping[str, int], rules: Path = RULES) -> str:
    """What Prometheus must read to watch the service at ``url`` whose other ports are ``ports``."""
    return TEMPLATE.format(
        rules=json.dumps(str(rules)) if rules.is_file() else "",
        url=json.dumps(urlsplit(url).netloc),
        control=CONTROL,
        nodes=NODES,
        haproxy=HAPROXY,
        metrics=ports["metrics"],
        haproxy_metrics=ports["haproxy_metrics"],
    )
