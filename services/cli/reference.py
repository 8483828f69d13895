"""The reference of the ``baton`` command in ``docs/cli.md``: every command with its help. Writes no file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer.main

from services.cli.app import app

OWN_DEFAULT = re.compile(r"\s*\[default: (?P<default>.*?)\]")
"""How a help text says a default that is no single value."""

PARAGRAPH = "\n\n"

CHOICES = re.compile(r"list\[|[<>\]]")
"""What typer writes around the choices of an option."""

FRAME = ("install_completion", "show_completion")
"""Options that typer adds to `baton` itself."""


def reference() -> str:
    """Return the sections of ``docs/cli.md``, as Markdown: one for each command, in the order of ``baton --help``."""
    return "\n".join(_command("baton", typer.main.get_command(app)))


def _command(name: str, command: Any) -> Iterator[str]:
    """Yield the section of a command, and those of its subcommands. A group of commands has a list of them instead."""
    yield f"### {name}\n\n{command.help}\n"
    context = typer.Context(command, info_name=name)
    shown = [_parameter(it, context) for it in command.params if it.name not in FRAME]
    inner = getattr(command, "commands", {})
    if not inner:
        arguments = [_usage(it) for it in command.params if it.param_type_name == "argument"]
        yield f"Usage: `{' '.join([name, *arguments, *(['[OPTIONS]'] if len(shown) > len(arguments) else [])])}`\n"
    if shown:
        yield "| | meaning | default |\n|---|---|---|"
        yield from shown
        yield ""
    if inner:
        yield "| command | |\n|---|---|"
        for child, item in inner.items():
            anchor = f"{name} {child}".replace(" ", "-")
            yield f"| [`{name} {child}`](#{anchor}) | {_cell(item.help.split(PARAGRAPH)[0])} |"
        yield ""
    for child, item in inner.items():
        yield from _command(f"{name} {child}", item)


def _usage(argument: Any) -> str:
    return argument.metavar if argument.required else f"[{argument.metavar}]"


def _parameter(parameter: Any, context: typer.Context) -> str:
    """Return the line of an argument or an option."""
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar}`"
    else:
        value = "" if parameter.is_flag else parameter.metavar or CHOICES.sub("", parameter.display_type(context))
        name = ", ".join(f"`{option}`" for option in sorted(parameter.opts, key=len))
        name = name[:-1] + (f" {value}`" if value else "`")
    help_text, default = parameter.help, ""
    if own := OWN_DEFAULT.search(help_text):
        help_text, default = OWN_DEFAULT.sub("", help_text), own["default"]
    elif parameter.required:
        default = "required"
    elif parameter.default not in (None, False):
        default = f"`{parameter.default}`"
    if parameter.min is not None or parameter.max is not None:
        bounds = [f"at least {parameter.min}"] * (parameter.min is not None) + [f"at most {parameter.max}"] * (
            parameter.max is not None
        )
        help_text = f"{help_text.rstrip('.')} ({', '.join(bounds)})."
    if parameter.envvar:
        help_text += f" Environment: `{parameter.envvar}`."
    return f"| {_cell(name)} | {_cell(help_text)} | {_cell(default)} |"


def _cell(text: str) -> str:
    """Return text that stays in one cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
