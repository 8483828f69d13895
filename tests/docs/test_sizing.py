"""The page on sizing tells what was measured, and nothing else."""

from __future__ import annotations

import re

from tests.docs.markdown import ROOT

PAGE = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
NUMBER = r"\d[\d,]*(?:\.\d+)?"


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in re.findall(NUMBER, text)]


def test_every_number_of_a_table_was_measured():
    measured = {rounded for number in numbers(RESULTS) for rounded in (number, round(number))}
    tables = re.findall(r"^\|.*\|$", PAGE.split("## Examples")[0], flags=re.MULTILINE)
    told = [(row, number) for row in tables for number in numbers(row)]
    assert len(told) > 30
    assert [it for it in told if it[1] not in measured] == []


def test_every_section_of_the_results_that_is_named_exists():
    named = set(re.findall(r"«([^»]+)»", PAGE))
    headings = re.findall(r"^## (.*)$", RESULTS, flags=re.MULTILINE)
    assert len(named) > 8
    assert [it for it in named if not any(heading.startswith(it.partition(",")[0]) for heading in headings)] == []
