"""The tests of the manual see what is wrong in a page."""

from __future__ import annotations

from tests.docs.markdown import Block, anchors, blocks, lacks, links, spans


def test_a_page_that_promises_something_else_would_be_found():
    printed = "one 1.5 s\n\ntwo   columns of c119fc99aa5144fbbfece5b446317004\nthree\n"
    assert lacks(printed, ["one 2 s", "…", "two columns of c0000000000000000000000000000000", "thr…"]) == ""
    assert lacks(printed, ["one", "three"]) == "one"
    assert lacks(printed, ["three", "one 1 s"]) == "one 1 s"


def test_a_page_is_taken_apart(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`: [three](four.md)\n\n## One\n## One\n\n[a](#one-two-three) [b](no.md) `[c](no.md)` `two\nwords`\n\n"
        "<!-- run -->\n```console\n$ one \\\n    two\nprinted\n\n$ three\n```\n"
    )
    monkeypatch.setattr("tests.docs.markdown.ROOT", tmp_path)
    assert links(page) == ["four.md", "#one-two-three", "no.md"]
    assert anchors(page) == {"one-two-three", "one", "one-1"}
    assert spans(page) == ["two", "[c](no.md)", "two words"]
    [block] = blocks(page)
    assert block == Block("page.md", 10, "console", "$ one \\\n    two\nprinted\n\n$ three\n", "run")
    assert block.commands == ["one      two", "three"]
    assert block.dialogue == [("one \\\n    two", ["printed"]), ("three", [])]
