"""Run the online benchmarks on banking77, and write the results to ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.__main__ import RESULTS, head_of, write
from benchmarks.online import delay, drifting, plot, poison, stream
from benchmarks.online.scenario import AUDIT, CORRECTED, INTENTS, THINNED, Scenario, build_scenario
from benchmarks.service import holdout_of, read_rows

PICTURE = Path(__file__).with_name("online.svg")


def main() -> None:
    """Parse the command line, run the benchmarks, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with banking77's train.jsonl and test.jsonl")
    parser.add_argument("--strangers", type=Path, help="directory whose test rows have `tokens` of another domain (drift)")
    parser.add_argument("--only", choices=tuple(SECTIONS), action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    wanted = arguments.only or list(SECTIONS)
    if "drift" in wanted and arguments.strangers is None:
        parser.error("drift needs --strangers: texts of another domain")
    if "stream" in wanted:
        plot.require()
    for section in (section for section in SECTIONS if section in wanted):
        with tempfile.TemporaryDirectory(prefix="baton-online-") as name:
            home = Path(name)
            text = SECTIONS[section](build_scenario(arguments.data, home), home, arguments)
        strangers = f" --strangers …/{arguments.strangers.name}" if section == "drift" else ""
        write(arguments.out, text, head_of("benchmarks.online", f"--data …/banking77{strangers} --only {section}"))
    print(f"written to {arguments.out}")


def _stream(scenario: Scenario, home: Path, _: argparse.Namespace) -> str:
    result = stream.measure(scenario, home)
    plot.draw(result, PICTURE)
    rows = "\n".join(_row(step, first=number == 0) for number, step in enumerate(result.steps))
    falls = [before.first_f1 - after.first_f1 for before, after in itertools.pairwise(result.steps)]
    gate = scenario.model("full", stream.AFTER_EXAMPLES)["gate"]
    return (
        "## Online fine-tuning\n\n"
        f"banking77: the first champion knows {INTENTS} of 77 intents from {THINNED:.0%} of their rows. The application then\n"
        f"sends {result.requests:,} texts of all intents, {stream.PER_SECOND:.0f} a second, and corrects {CORRECTED:.0%} of "
        f"the answers by request id; every\n{stream.AFTER_EXAMPLES} corrections start a run from the champion (5 epochs, 3 old "
        "rows for each new one) without a cool-down;\n"
        f"the gate asks for a confidence of {gate['confidence']:.0%}. 2 replicas; nobody in between. F1 is macro, on test "
        "rows that nobody trained on;\nof the first 40 intents it is over these 40 alone, on their rows.\n\n"
        "| champion | took over | train rows | F1, all intents | F1, first 40 | live F1 (corrections) | answered | right |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        f"{rows}\n\n"
        f"Requests failed: {result.failed} of {result.requests:,}; corrections failed: {result.failed_corrections} of "
        f"{result.corrections + result.failed_corrections:,}; versions\nnot promoted: {result.refused}. "
        "Largest fall of F1 on the first 40 from one champion to the next: "
        f"{100 * max([0.0, *falls]):.1f} points.\n"
        f"The audit drew {AUDIT:.0%} of the texts; people gave {result.labels:,} labels, whatever the answer was. Of the last "
        f"holdout,\n{result.judges:,} rows are audited texts, and {result.strangers} are neither declared nor audited.\n"
        f"p50 {result.p50_ms:.0f} ms, p99 {result.p99_ms:.0f} ms over the whole time, training included.\n\n"
        "![F1 and right answers over time](online/online.svg)\n"
    )


def _row(step: stream.Step, *, first: bool) -> str:
    took_over = "start" if first else "after the traffic" if step.at is None else f"{step.at:.0f} s"
    live = "–" if step.live_f1 is None else f"{step.live_f1:.4f} ({step.corrections})"
    right = "–" if step.right is None else f"{step.right:.3f}"
    return (
        f"| v{step.version} | {took_over} | {step.train_rows:,} | {step.f1:.4f} | {step.first_f1:.4f} | {live} | "
        f"{step.answered:,} | {right} |"
    )


def _poison(_: Scenario, home: Path, arguments: argparse.Namespace) -> str:
    result = poison.measure(arguments.data, home)
    rows = "\n".join(f"| {it.name} | {it.challenger_f1:.4f} | {it.verdict} | {it.serving_f1:.4f} |" for it in result.attacks)
    return (
        "## A hostile sender\n\n"
        f"banking77: the champion is trained on {poison.TRAIN_SHARE:.0%} of the rows. Somebody who may send corrections sends\n"
        f"{poison.CORRECTIONS} in each attack, on texts of their choice, and a run trains on all of them so far. F1 is macro,\n"
        f"on the declared holdout; the champion's is {result.first_f1:.4f} before.\n\n"
        f"| {poison.CORRECTIONS} corrections with | F1 of the new version | the gate says | F1 of what serves |\n"
        "| --- | --- | --- | --- |\n"
        f"{rows}\n"
    )


def _delay(scenario: Scenario, home: Path, _: argparse.Namespace) -> str:
    delays = []
    for tune in ("full", "lora", "head"):
        place = home / tune
        place.mkdir()
        delays.append(delay.measure(scenario, place, tune))
    rows = "\n".join(
        f"| {it.tune} | {it.seconds:.0f} s | {it.training:.0f} s | {it.f1_before:.4f} | {it.f1_after:.4f} |" for it in delays
    )
    return (
        "## From correction to service\n\n"
        f"Seconds from the answer to the {delay.CORRECTIONS}th correction until the new version answers a request; the\n"
        "scene is that of online fine-tuning, but any gain passes the gate. F1 is the gate's, on the holdout, which the\n"
        "corrections made grow.\n\n"
        "| tune | correction to service | of that training | F1 before | F1 after |\n| --- | --- | --- | --- | --- |\n"
        f"{rows}\n"
    )


def _drift(scenario: Scenario, home: Path, arguments: argparse.Namespace) -> str:
    strangers = [" ".join(row["tokens"]) for row in read_rows(holdout_of(arguments.strangers))]
    found = drifting.measure(scenario, home, strangers)
    after = "none within" if found.after is None else f"after {found.after} of"
    return (
        "## Drift\n\n"
        f"{drifting.CLEAN:,} requests, one text each, like the holdout's; looked at after every {drifting.CHECK_EVERY}:\n"
        f"an alarm at {found.false_alarms} of {found.checks} checks. Then texts of another domain "
        f"({arguments.strangers.name}):\n"
        f"alarm {after} {drifting.OTHER}"
        f"{' (' + ', '.join(found.features) + ')' if found.features else ''}.\n"
    )


SECTIONS: Mapping[str, Callable[[Scenario, Path, argparse.Namespace], str]] = {
    "stream": _stream,
    "delay": _delay,
    "drift": _drift,
    "poison": _poison,
}


if __name__ == "__main__":
    main()
