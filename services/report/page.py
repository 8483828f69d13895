"""A decision and its report as HTML: as pieces for another page, and as one file of its own."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

from services.report.plots import gain_plot, interval_glyph
from services.report.view import Json, view_of
from services.report.words import Language, Words


@cache
def css() -> str:
    """Return the style of `fragments`; all of its rules are below the class ``baton-report``."""
    return (files("services.report") / "report.css").read_text(encoding="utf-8")


@cache
def policy() -> str:
    """Return the Content-Security-Policy of `page`: its own style, and nothing else. No script runs, no address is asked."""
    style = base64.b64encode(hashlib.sha256(css().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"


def fragments(item: Json, *, language: Language = "en") -> Markup:
    """Return the report as one ``<article class="baton-report">`` of HTML and SVG.

    It has no scripts, no style attributes and no addresses, so that it can stand in a page with any Content-Security-Policy.
    The page must have the style `css`. Its headings are ``h2`` and ``h3``.

    Args:
        item: the answer of ``GET /api/models/M/versions/N/report``: ``decision`` and ``report``. Reports of older versions of
            Baton have fewer pieces.
        language: of everything but the gate's own sentence and what users wrote.
    """
    words = Words(language)
    return Markup(_template("report.html").render(view=view_of(item, words), t=words, plot=gain_plot, glyph=interval_glyph))


def page(item: Json, *, language: Language = "en") -> str:
    """Return the report as one HTML file, which needs nothing else. The arguments are those of `fragments`."""
    words = Words(language)
    decision = item["decision"]
    return _template("page.html").render(
        title=words("title", model=decision["model"], version=decision["candidate"]),
        tag=words.tag,
        policy=policy(),
        css=Markup(css()),
        content=fragments(item, language=language),
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("services.report", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> Template:
    return _environment().get_template(name)
