"""`baton doctor`: what may be wrong on this machine."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

import typer

from baton.config.file import load_config
from baton.errors import ConfigError
from baton.wording import counted
from services.cli.terminal import AsJson, ConfigFile, out, path_of, print_json, state_of

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Check this machine, the installation and what the configuration names, within seconds; each finding is one line.

    It starts nothing and changes nothing, and works with and without a running service. A configuration with mistakes is one
    problem, and what does not need it is checked nevertheless. Exit status 1 when there is a problem;
    warnings do not change it.
    """
    from services.host.checks import doctor as checking
    from services.host.checks.finding import problem

    path = path_of(config)
    state = state_of(path)
    try:
        named = checking.checks(load_config(path, os.environ), state, os.environ)
    except ConfigError as error:
        mistake = problem(str(error), "`baton config check` looks at the file alone")
        named = {"configuration": lambda: iter([mistake]), **checking.checks_without_configuration(state, os.environ)}
    found = checking.run(named)
    counts = {level: sum(finding.level == level for _, finding in found) for level in ("problem", "warning")}
    if as_json:
        print_json({"ok": not counts["problem"], "findings": [{"check": name, **asdict(finding)} for name, finding in found]})
    else:
        for name, finding in found:
            advice = f" → {finding.advice}" if finding.advice else ""
            line = f"{finding.level:8} {name}: {finding.text}{advice}"
            out.print(line, style=STYLES[finding.level], markup=False, soft_wrap=True, highlight=False)
        out.print(f"{counted(counts['problem'], 'problem')}, {counted(counts['warning'], 'warning')}", highlight=False)
    sys.stdout.flush()
    if counts["problem"]:
        raise typer.Exit(1)
