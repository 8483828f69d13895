"""How Sphinx renders the manual as a site: ``make site``.

Its sources are the Markdown files as they stand in the repository, so that their links work there as well. The navigation is
that of docs/index.md: each of its headings with the pages that it links to.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

import baton

project = "Baton"
author = "the authors of Baton"
version = release = baton.__version__

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "*.md", "benchmarks/*.md", "baton/samples/*.md"]
exclude_patterns = [".*", "**/.*", "build", "site"]
myst_heading_anchors = 4  # the anchors that GitHub gives headings
# Blocks of the manual are highlighted where their lexer knows them; an output that isn't JSON needs no warning.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = "Baton"
html_copy_source = False
html_extra_path = ["site"]  # the first page leads to the manual
html_theme_options = {"footer_icons": []}

LINK = re.compile(r"\]\((?!https?:)([^)#]+\.md)\)")


def append_navigation(app: Sphinx, document: str, source: list[str]) -> None:
    """Add to the pages that list others what Sphinx makes its sidebar from. No reader of the files sees it."""
    if document == root_doc:
        _, *sections = re.split(r"^## (.+)$", source[0], flags=re.M)
        source[0] += "".join(map(tree, sections[::2], sections[1::2]))
    elif document == "docs/adr/README":
        source[0] += tree("Decisions", source[0])
    elif document.endswith(("README", "README.zh")):
        source[0] = f"---\norphan: true\n---\n{source[0]}"  # read where they stand; other pages link to them


def tree(caption: str, text: str) -> str:
    """Return a directive for the pages that ``text`` links to."""
    pages = "\n".join(dict.fromkeys(LINK.findall(text)))
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"


def setup(app: Sphinx) -> None:
    """Register what Sphinx calls."""
    app.connect("source-read", append_navigation)
