"""The messages that the manual explains are those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.docs.markdown import ROOT

PAGES = ("docs/faq.md", "docs/refusals.md", "docs/operations.md")
HOLE = "…"
"""What a value is in a message."""


@cache
def messages() -> list[str]:
    """Every text in the code, with `HOLE` for each value in it."""
    found = []
    for folder in ("baton", "services", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    found.append("".join(str(it.value) if isinstance(it, ast.Constant) else HOLE for it in node.values))
    return found


def known(message: str) -> bool:
    """Whether one text of the code has all pieces of a message between its holes, in their order."""
    pieces = [it.strip() for it in message.split(HOLE) if len(it.strip()) > 3]
    pattern = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
    return bool(pieces) and any(pattern.search(it) for it in messages())


FOREIGN = {"did not start … Cannot raise FD limit"}
"""Messages of HAProxy that we pass on."""


def explained(page: str) -> Iterator[str]:
    """The messages in the first cells of a page's tables: code of several words that is no command and no call."""
    text = (ROOT / page).read_text(encoding="utf-8").split("## What the sentence adds")[-1]  # sentences: test_refusals.py
    for cell in re.findall(r"^\| (.*?) \|", text.split("## Refused without the gate")[-1], flags=re.MULTILINE):
        for _, span in re.findall(r"(?<!`)(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)", cell):
            if len(span.split()) > 3 and not span.startswith(("baton ", "GET ", "POST ", "{", "$")):
                yield span.strip()


@pytest.mark.parametrize("page", PAGES)
def test_every_message_that_a_table_explains_is_one_of_the_code(page):
    found = list(explained(page))
    assert len(found) > 4
    assert [it for it in found if not known(it) and it not in FOREIGN] == []


def test_a_message_that_nobody_says_would_be_found():
    assert known("port … is taken by …; stop it, or choose another port")
    assert not known("port … is eaten by …; stop it")
    assert not known("stop it, or choose another port … is taken by")
