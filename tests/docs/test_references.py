"""The generated pages of the manual say what the code says."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator

import pytest
import typer.main
from pydantic import BaseModel

from baton.config.file import ENVIRONMENT, BatonConfig, section_in
from services.cli.app import app
from services.references import BEGIN, DOCS, END, REFERENCES, updated


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", REFERENCES)
def test_a_generated_reference_is_current(name):
    written = page(name)
    assert updated(written, REFERENCES[name]()) == written, f"docs/{name} is out of date: run `make docs`"


def test_only_the_marked_part_of_a_page_is_replaced():
    before = f"# Title\n\n{BEGIN}\nold\n\n{END}\nby hand\n"
    assert updated(before, "new\n\n") == f"# Title\n\n{BEGIN}\nnew\n\n{END}\nby hand\n"
    assert updated(updated(before, "new"), "old") == before


@pytest.mark.parametrize("text", ["# Title\n", f"# Title\n{BEGIN}", f"{END}{BEGIN}"])
def test_a_page_without_marks_is_refused_rather_than_overwritten(text):
    with pytest.raises(ValueError, match="must contain the lines"):
        updated(text, "new")


# --- every key, every command ---------------------------------------------------------------------------------------------


def sections(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section of baton.yaml with the heading under which the page has it."""
    yield path or "The file", section
    for name, field in section.model_fields.items():
        if nested := section_in(field.annotation):
            several = "[]" if typing.get_origin(field.annotation) is tuple else ""
            yield from sections(nested, f"{path}.{name}{several}".removeprefix("."))


def test_every_key_has_a_line_with_its_meaning_below_the_heading_of_its_section():
    parts = dict(re.findall(r"^### `?(.*?)`?\n(.*?)(?=^### |\Z)", page("configuration.md"), flags=re.DOTALL | re.MULTILINE))
    found = dict(sections(BatonConfig))
    assert parts.keys() == found.keys()
    for heading, section in found.items():
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+) \|$", parts[heading], flags=re.MULTILINE)
        assert [row[0] for row in rows] == list(section.model_fields)
        assert [row[0] for row in rows if len(row[3]) < 15] == []


def test_bounds_choices_defaults_and_other_ways_to_set_a_key_are_told():
    text = page("configuration.md")
    assert "| `port` | whole number ≥ 1 and ≤ 65535 | `8000` |" in text
    assert '| `conflicts` | `latest`, `majority` | `"latest"` |' in text
    assert "| `abstain_below` | number > 0 and ≤ 1 or null | `null` |" in text
    assert "For one run: `baton train MODEL --set data.train=…`" in text
    assert [variable for variable in ENVIRONMENT if f"Environment: `{variable}`." not in text] == []


def commands(command: typing.Any, name: str) -> Iterator[tuple[str, typing.Any]]:
    yield name, command
    for inner, item in getattr(command, "commands", {}).items():
        yield from commands(item, f"{name} {inner}")


COMMANDS = dict(commands(typer.main.get_command(app), "baton"))


def test_every_command_has_a_section_with_all_of_its_options():
    parts = dict(re.findall(r"^### (baton.*?)\n(.*?)(?=^### |\Z)", page("cli.md"), flags=re.DOTALL | re.MULTILINE))
    assert parts.keys() == COMMANDS.keys()
    for name, command in COMMANDS.items():
        options = {option for it in command.params if it.param_type_name == "option" for option in it.opts}
        told = set(re.findall(r"`(-{1,2}[\w-]+)", "".join(re.findall(r"^\| `-.*?\|", parts[name], flags=re.MULTILINE))))
        assert told == options - {"--install-completion", "--show-completion"}, name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_value_of_an_option_has_a_name_in_the_help_rather_than_a_type(name):
    unnamed = [
        parameter.name
        for parameter in COMMANDS[name].params
        if parameter.param_type_name == "option" and not parameter.is_flag and not parameter.metavar
    ]
    assert [it for it in unnamed if it not in ("scope", "language")] == []  # their choices say more than a name


def test_the_readme_lists_every_command():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"\[`(\w+)`\]\(docs/cli\.md#baton-\1\)", readme)
    assert sorted(listed) == sorted(typer.main.get_command(app).commands)
