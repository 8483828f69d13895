"""Links of the manual lead somewhere: files exist, and so do the headings that anchors name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.markdown import MANUAL, PAGES, ROOT, anchors, links, name_of


def broken(path: Path) -> list[str]:
    """The links of a page that lead nowhere. Links to other hosts are not followed."""
    found = []
    for link in links(path):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.is_relative_to(ROOT) or not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(path):
    assert broken(path) == []


def test_a_broken_link_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.test_links.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# Here\n\n[a](page.md#here) [b](#there) [c](no.md) [d](../up.md) [e](https://example.org/no)\n")
    assert broken(page) == ["#there", "no.md", "../up.md"]


def test_every_page_of_the_manual_is_in_its_table_of_contents():
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(index) if "://" not in link}
    assert [name_of(path) for path in MANUAL if path.parent.name == "docs" and path not in {*listed, index}] == []
