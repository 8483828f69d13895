"""What changed from one data set version to another: rows added, removed and relabelled, by label, with the first of them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.artifacts import frozen
from baton.artifacts.storage import Storage
from baton.store.records import PAGE
from baton.tasks import task_type
from services.console.data import answer_text
from services.console.gate import ROOT
from services.console.pages import Pages, number_of

ROWS_LISTED = 100
"""Number of changed rows of a split that are listed. All are counted."""

OFFERED = 2 * PAGE
"""Number of newest data sets that the two lists offer; the address names any."""


def change_routes(pages: Pages) -> list[Route]:
    """Return the routes of changes of the data."""
    registry = pages.control.registry
    storage = Storage(pages.control.config.storage)

    def show_changes(request: Request) -> Response:
        settings = pages.settings(request)
        name, task_cls = settings.name, task_type(settings.task)
        wanted = {key: number_of(text, key) for key in ("a", "b") if (text := request.query_params.get(key))}
        offered = registry.datasets.list(name, limit=OFFERED)
        newest = offered[0].number if offered else None
        second = registry.datasets.get(name, number) if (number := wanted.get("b", newest)) else None
        number = wanted.get("a", second.previous if second else None)
        first = registry.datasets.get(name, number) if number else None
        splits = None
        if first and second:
            splits = frozen.difference(task_cls, storage, first.uri, second.uri, listed=ROWS_LISTED)
        return pages.render(
            request,
            "changes.html",
            model=settings,
            tab="data",
            offered=sorted({*(it.number or 0 for it in offered), *wanted.values()}, reverse=True),
            chosen=(first.number if first else None, second.number if second else None),
            splits=splits,
            listed=ROWS_LISTED,
            answer=lambda text, answer: "" if answer is None else answer_text(settings, {"text": text, **answer}),
        )

    return [Route(f"{ROOT}/models/{{model}}/data/diff", show_changes, methods=["GET"])]
