"""Draws what `benchmarks.peers` measured: the rate and the 99th percentile of each server under each load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.peers.__main__ import Case, Measured


def draw(results: Mapping[Case, Measured], path: Path) -> None:
    """Draw a bar for each server and load to ``path``, rates above latencies. Raises ``ImportError`` without matplotlib."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "baton"  # the same result gives the same file
    servers = list(dict.fromkeys(case.server for case in results))
    loads = list(dict.fromkeys((case.load, case.clients) for case in results))
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(10, 6), layout="constrained", sharex=True)
    width = 0.8 / len(servers)
    for number, server in enumerate(servers):
        found = {(case.load, case.clients): measured for case, measured in results.items() if case.server == server}
        places = [place + (number - (len(servers) - 1) / 2) * width for place in range(len(loads))]
        above.bar(places, [found[load].texts_per_second for load in loads], width, label=server)
        below.bar(places, [found[load].p99_ms for load in loads], width)
    above.set(ylabel="texts a second", title="More is better")
    above.legend(ncols=len(servers))
    below.set(ylabel="p99, ms", yscale="log", title="Less is better")
    below.set_xticks(range(len(loads)), [f"{load}\n{clients} client{'s' * (clients > 1)}" for load, clients in loads])
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
