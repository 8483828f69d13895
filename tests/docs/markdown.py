"""The pages of the manual, taken apart: code blocks with what a comment says of them, prose, headings and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

MANUAL = [path for path in (ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]
"""What users read."""

PAGES = [*MANUAL, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs/adr").glob("*.md"))]

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", flags=re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"<!-- *((?:(?!-->).)*?) *-->\n*\Z", flags=re.DOTALL)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    page: str
    line: int
    language: str
    text: str
    note: str
    """The HTML comment right above it; empty if there is none."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def unchecked(self) -> str:
        """Why nobody can check it; empty if somebody can."""
        return self.note.removeprefix("unchecked:").strip() if self.note.startswith("unchecked:") else ""

    @property
    def commands(self) -> list[str]:
        """The commands of a shell, without prompts and what they print. A command may have several lines."""
        if self.language == "bash":
            return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]
        return [re.sub(r"\\?\n(?:> )?", " ", found) for found in re.findall(r"^\$ ((?:.*\\\n|.*\n(?=> ))*.*)", self.text, re.M)]

    @property
    def dialogue(self) -> list[tuple[str, list[str]]]:
        """Each command as it stands there, with the lines that the page says it prints."""
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        found = []
        for part in parts:
            lines = part.splitlines()
            end = next(place for place, line in enumerate(lines) if not line.endswith("\\")) + 1
            found.append(("\n".join(lines[:end]), [line for line in lines[end:] if line.strip()]))
        return found


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        above = COMMENT.search(text[: match.start()])
        indent = len(match[1])
        content = "".join(line[indent:] for line in match[3].splitlines(keepends=True))
        line = text[: match.start()].count("\n") + 1
        found.append(Block(name_of(path), line, match[2], content, above[1] if above else ""))
    return found


BLOCKS = [block for path in PAGES if path.parent.name != "adr" for block in blocks(path)]


def prose(path: Path) -> str:
    """A page without its code blocks and comments; as many lines as before."""
    text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), path.read_text(encoding="utf-8"))
    return re.sub(r"<!--.*?-->", lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL)


def spans(path: Path) -> list[str]:
    """The code in the prose of a page, between backticks; a line break in it is a space."""
    return [
        re.sub(r"\s+", " ", found) for _, found in re.findall(r"(?<!`)(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)", prose(path), re.DOTALL)
    ]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#+ +(.*?) *$", prose(path), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = "".join(it for it in plain.lower().replace(" ", "-") if it.isalnum() or it in "-_")
        count = seen.get(anchor, 0)
        seen[anchor] = count + 1
        found.add(f"{anchor}-{count}" if count else anchor)
    return found


def links(path: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    text = re.sub(r"(?<!`)(`{1,2})(?!`).+?(?<!`)\1(?!`)", "`…`", prose(path), flags=re.DOTALL)
    return re.findall(r"\]\(\s*([^()\s]+(?:\([^()]*\))?)\s*\)", text)


def shape(line: str) -> str:
    """A line without what differs from run to run: numbers, ids, spaces that fill columns."""
    return re.sub(r"\s+", " ", re.sub(r"\b[0-9a-f]{32}\b|\d+(?:[.,]\d+)*", "#", line)).strip()


def lacks(printed: str, wanted: list[str]) -> str:
    """The first line that a page promises and that a command did not print, after those before it. ``…`` is anything."""
    lines = iter([shape(line) for line in printed.splitlines()])
    for line in wanted:
        pattern = re.compile(".*".join(map(re.escape, re.split(r" *… *", shape(line)))))
        if shape(line) != "…" and not any(pattern.fullmatch(found) for found in lines):
            return line
    return ""
