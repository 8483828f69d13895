"""The Chinese pages show what the English ones show: the same commands, settings, code and output."""

from __future__ import annotations

import re

import pytest

from tests.docs.markdown import ROOT, Block, blocks, links

PAIRS = [("README.md", "README.zh.md"), ("docs/quickstart.md", "docs/quickstart.zh.md")]


def shown(block: Block) -> tuple[str, str, str]:
    """A block without its comments, which are translated."""
    lines = [re.sub(r"(^|\s+)# .*$", "", line) for line in block.text.splitlines()]
    return block.language, block.note, "\n".join(lines)


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_a_translation_has_the_same_blocks_of_code(english, chinese):
    ours = [shown(block) for block in blocks(ROOT / english) if block.language]
    theirs = [shown(block) for block in blocks(ROOT / chinese) if block.language]
    assert len(ours) > 4
    assert theirs == ours


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_both_languages_lead_to_each_other_and_to_the_same_pages(english, chinese):
    pages = [{link.partition("#")[0] for link in links(ROOT / name) if "://" not in link} for name in (english, chinese)]
    other = [name.rpartition("/")[2] for name in (chinese, english)]
    assert [name in found for name, found in zip(other, pages, strict=True)] == [True, True]
    translated = {link.replace(".zh.md", ".md") for link in pages[1]}
    assert {link.replace(".zh.md", ".md") for link in pages[0]} - translated - {""} == set()
