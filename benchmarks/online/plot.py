"""Draws the result of `benchmarks.online.stream`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.online.stream import StreamResult


def require() -> None:
    """Raise ``ImportError`` if matplotlib is missing: before a benchmark of a quarter of an hour, rather than after it."""
    import matplotlib as mpl  # noqa: F401


def draw(result: StreamResult, path: Path) -> None:
    """Draw held-out F1 by version, the application's share of right answers, and the times of the swaps, to ``path``."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "baton"  # the same result gives the same file
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    begins = [0.0, *(result.seconds if step.at is None else step.at for step in result.steps[1:])]
    ends = [*begins[1:], result.seconds]
    for key, name, colour in (("f1", "held-out F1, all 77 intents", "C0"), ("first_f1", "held-out F1, first 40 intents", "C2")):
        for number, (step, begin, end) in enumerate(zip(result.steps, begins, ends, strict=True)):
            axes.hlines(getattr(step, key), begin, end, colors=colour, linewidth=2.5, label=name if number == 0 else "_")
    axes.plot(*zip(*result.running, strict=True), ".-", color="C1", alpha=0.7, label="traffic answered right (300 requests)")
    for step, begin in zip(result.steps[1:], begins[1:], strict=True):
        axes.axvline(begin, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate(f"v{step.version}", (begin, 0.02), fontsize=8, color="grey", xytext=(2, 0), textcoords="offset points")
    axes.set(xlabel="seconds of traffic", ylabel="share of 1", ylim=(0, 1), title="Corrections in, better models out")
    axes.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
