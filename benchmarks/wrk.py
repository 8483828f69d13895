"""Sends load with wrk (Debian: apt-get install wrk): request bodies in turn, each client as fast as it gets answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TIMEOUT_SECONDS = 30

SCRIPT = """
local texts = {%s}
local count = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  count = count + 1
  wrk.headers["X-Request-Id"] = %s
  return wrk.format(nil, nil, nil, texts[count %% #texts + 1])
end
done = function(summary, latency, requests)
  io.write(string.format("RESULT %%f %%f %%f %%d %%d\\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, summary.requests,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
"""


class Load(NamedTuple):
    """Results of a load."""

    rate: float
    """Requests per second."""
    p50_ms: float
    p99_ms: float
    requests: int


def write_script(path: Path, texts: Sequence[str], request_ids: str | None = None) -> Path:
    """Write a script to ``path`` that requests the top 5 labels of ``texts`` in turn, one text per request. Return ``path``.

    ``request_ids``: prefix of the ids that the requests carry; None to let the replica create the ids.
    """
    return write_bodies(path, [json.dumps({"inputs": text, "parameters": {"top_k": 5}}) for text in texts], request_ids)


def write_bodies(path: Path, bodies: Sequence[str], request_ids: str | None = None) -> Path:
    """Write a script to ``path`` that posts JSON bodies in turn. Return ``path``. ``request_ids``: as in `write_script`."""
    quoted = ", ".join(f"[==[{body}]==]" for body in bodies)
    path.write_text(SCRIPT % (quoted, "nil" if request_ids is None else f'"{request_ids}-" .. count'), encoding="utf-8")
    return path


def load(script: Path, url: str, concurrency: int, seconds: int) -> Load:
    """Send requests for ``seconds``. Raise ``RuntimeError`` if one fails, because results with failed requests are useless."""
    if shutil.which("wrk") is None:
        raise RuntimeError("this benchmark needs wrk (Debian: apt-get install wrk)")
    options = ["-t1", f"-c{concurrency}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_SECONDS}s", "-s", str(script)]
    done = subprocess.run(["wrk", *options, url], check=True, stdout=subprocess.PIPE, text=True)
    found = re.search(r"RESULT (\S+) (\S+) (\S+) (\d+) (\d+)", done.stdout)
    if found is None or int(found[5]):
        raise RuntimeError(f"wrk reports errors:\n{done.stdout}")
    return Load(rate=float(found[1]), p50_ms=float(found[2]), p99_ms=float(found[3]), requests=int(found[4]))
