"""A roll-out for a terminal: its state, and what was measured of both versions. Knows rich; knows no HTTP."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from baton.store.records import RolloutMode, RolloutState, Verdict
from services.tables.show import Json, grid, time_text, version_text

STATE_STYLES = {RolloutState.SETTLED: "green", RolloutState.REJECTED: "red", RolloutState.ROLLED_BACK: "red"}
"""Colours of final states; the others are cyan."""


def started(item: Json) -> RenderableType:
    """Return a sentence about a trial that has just begun, and a warning if the gate did not let the version pass."""
    does = "answers" if item["mode"] == RolloutMode.CANARY else "gets a copy of"
    until = "until it is ended" if item["minutes"] is None else f"for {item['minutes']:g} min"
    begun = Text(f"v{item['version']} {does} {item['percent']:g}% of the requests, beside v{item['champion']}, {until}.")
    if item["mode"] == RolloutMode.SHADOW or item["gate"] is None or item["gate"]["verdict"] == Verdict.PROMOTE:
        return begun
    before = item["gate"]["champion"]
    judged = f"the gate did not let it take over{f' from v{before}' if before not in (None, item['champion']) else ''}"
    return Group(begun, Text(f"Warning: {judged}. {item['gate']['sentence']}", style="yellow"))


def rollout(item: Json) -> RenderableType:
    """Return the state of a roll-out and, for a canary or a shadow, a table with a column for each version."""
    heading = Text(f"v{item['version']} ({item['mode']}{_terms(item)}): ")
    heading.append(item["state"], style=STATE_STYLES.get(item["state"], "cyan"))
    heading.append(f" since {time_text(item['changed_at'])}")
    parts: list[RenderableType] = [heading]
    if asked := item.get("asked"):  # missing in the answers of an older service
        parts.append(Text(f"Asked for: {asked}"))
    if item["reason"]:
        parts.append(Text(item["reason"]))
    if item["state"] == RolloutState.SETTLED and item["mode"] != RolloutMode.DIRECT and item["decision_id"] is None:
        parts.append(Text(f"The champion stays; `baton promote {item['model']} {item['version']}` asks the gate."))
    if "measured" in item:
        parts += [_both(item), *_differences(item["measured"])]
    return Group(*parts)


def _terms(item: Json) -> str:
    """Return the share and the duration of a trial, for its heading."""
    if item["mode"] == RolloutMode.DIRECT:
        return ""
    return f", {item['percent']:g}%" + ("" if item["minutes"] is None else f" for {item['minutes']:g} min")


def _both(item: Json) -> RenderableType:
    measured, feedback = item["measured"], item["feedback"]
    failed = measured["errors"] + measured["late"]
    then = " then" if RolloutState(item["state"]).final else ""
    table = grid("", f"{version_text(item['version'])} ({item['mode']})", f"{version_text(item['champion'])} (champion{then})")
    table.add_row("answers", f"{measured['answers']:,}", f"{measured['champion_answers']:,}")
    table.add_row("failed", f"{failed:,} ({measured['late']:,} late)", f"{measured['champion_errors']:,}")
    pairs = feedback.get("pairs")  # missing in the answers of an older service
    wrong = "wrong by feedback" if pairs is None else f"alone wrong, of {pairs:,} corrected"
    table.add_row(wrong, f"{feedback['wrong']:,}", f"{feedback['champion_wrong']:,}")
    table.add_row("F1 by feedback", _score(feedback["f1"]), _score(feedback["champion_f1"]))
    if pairs and not feedback["judges"]:
        note = f"Feedback does not judge yet: it has corrected too few errors of the champion ({feedback['champion_errors']})."
        return Group(table, Text(note, style="dim"))
    return table


def _differences(measured: Json) -> list[RenderableType]:
    """Return lines on what both versions answered to the same inputs, and a table of the largest differences."""
    if not measured["compared"]:
        return [Text("No input was answered by both versions yet.", style="dim")]
    ratio = measured["latency_ratio"]
    agreed = measured["agreed"] / measured["compared"]
    shift = measured["shift"] / measured["compared"]
    inputs = "input" if measured["compared"] == 1 else "inputs"
    line = f"{measured['compared']:,} {inputs} answered by both: {agreed:.1%} the same, mean difference of scores {shift:.3f}"
    parts: list[RenderableType] = [Text(line if ratio is None else f"{line}, {ratio:.2f} times the champion's time")]
    if measured["skipped"]:
        parts.append(Text(f"{measured['skipped']:,} requests of its share were not given to it: too many waited", style="dim"))
    if measured["examples"]:
        table = grid("input", "champion", "new version", "difference")
        for example in measured["examples"]:
            text = " · ".join(str(value) for value in example["input"].values())
            table.add_row(text[:80], example["champion"], example["version"], f"{example['shift']:.3f}")
        parts.append(table)
    return parts


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
