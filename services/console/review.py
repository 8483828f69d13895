"""The review: texts to label, one at a time, for people who label with the keyboard. `questions` says which ones, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, InvalidInput
from baton.keys import Scope
from services.console.gate import ROOT
from services.console.language import Words
from services.console.pages import Form, Pages, see, visit_of
from services.console.playground import answer_of, correction_text, kinds_of
from services.console.questions import MOST_UNSURE, NEWEST, Question, Questions, Source
from services.control import audit
from services.control.api.feedback import intake_of
from services.control.control_metrics import ControlMetrics
from services.control.corrections import Item

KEYS = "1234567890qwertzuiopadfghjklcvbn"
"""Keys of the first labels. Left out are those of other buttons: s skips, x says that there is no right answer."""

SOURCES: Mapping[Source, Words] = {
    Source.AUDIT: Words("Audit"),
    Source.UNSURE: Words("Least certain answers"),
    Source.SUSPECT: Words("Suspect rows"),
}


def review_routes(pages: Pages, metrics: ControlMetrics) -> list[Route]:
    """Return the routes of the review."""
    return [Route(f"{ROOT}/models/{{model}}/review", Review(pages, metrics).show, methods=["GET", "POST"])]


class Review:
    """Shows questions and stores what people say about them."""

    def __init__(self, pages: Pages, metrics: ControlMetrics) -> None:
        self._pages, self._metrics = pages, metrics
        self._registry, self._storage = pages.control.registry, Storage(pages.control.config.storage)

    async def show(self, request: Request) -> Response:
        """Answer with the next question, after storing the answer of a form."""
        settings = self._pages.settings(request)
        if request.method == "GET":
            return await asyncio.to_thread(self._page, request, settings)
        form = await self._pages.form(request)
        path = f"{ROOT}/models/{settings.name}/review"
        source, key = _source(form.get("source", "")), form.get("id", "")
        if "skip" in form:
            return see(f"{path}?{urlencode({'queue': source, 'after': key})}")
        question = await asyncio.to_thread(self._questions(request, settings).get, source, key)
        try:
            await self._store(request, settings, question, form)
        except BatonError as error:
            return await asyncio.to_thread(self._page, request, settings, question, error)
        return see(f"{path}?{urlencode({'queue': source, 'after': _place(request)[1]})}")

    def _questions(self, request: Request, settings: ModelSettings) -> Questions:
        corrects = settings.feedback.accept and visit_of(request).may(Scope.FEEDBACK, settings.name)
        return Questions(self._registry, self._storage, settings, corrects=corrects)

    def _page(
        self, request: Request, settings: ModelSettings, here: Question | None = None, error: BatonError | None = None
    ) -> Response:
        """Show a question: ``here``, with what was wrong with its answer, or the next one."""
        questions = self._questions(request, settings)
        source, after = _place(request)
        found = here or questions.next(source, after)
        champion = self._registry.champion_version(settings.name)
        labels = [] if champion is None else list(champion.lineage.get("labels", ()))
        counts = questions.counts
        return self._pages.render(
            request,
            "review.html",
            200 if error is None else error.status,
            model=settings,
            tab="review",
            item=found,
            current=found.source if found else None,
            doubted=correction_text({**found.input, **found.answer}) if found and found.answer else "",
            labels=kinds_of(labels) if settings.task == "ner" else labels,
            keys=KEYS,
            after="" if found and found.source is not source else after,
            sources=[(one, SOURCES[one], counts[one]) for one in Source],
            batch=next((it for it in questions.audit["batches"] if not it["judges"]), None),
            share=settings.feedback.audit,
            newest=NEWEST,
            most_unsure=MOST_UNSURE,
            problem=str(error) if error else questions.problem,
        )

    async def _store(self, request: Request, settings: ModelSettings, question: Question, form: Form) -> None:
        """Store what a form answers. Raises ``InvalidInput`` if it cannot be stored."""
        key = visit_of(request).key
        inputs = {name: value for name, value in question.input.items() if value is not None}
        if question.source is Source.AUDIT:
            label = {"undecidable": True} if "undecidable" in form else answer_of(settings, inputs, form)
            item = {"id": int(question.key), **label}
            report = await asyncio.to_thread(audit.take_labels, self._registry, settings, [item], key.id if key else None)
            if report["rejected"]:
                raise InvalidInput(report["errors"][0]["error"])
            return
        answer = question.answer if "right" in form else answer_of(settings, inputs, form)
        intake = intake_of(self._pages.control, settings, key)
        await intake.take([Item(index=0, value={**inputs, **answer, **question.names})])
        self._metrics.count_feedback(settings.name, intake.accepted, intake.duplicates, intake.rejected)
        if intake.all_rejected:
            raise InvalidInput(intake.rejection())


def _place(request: Request) -> tuple[Source, str]:
    """Return from which source on the next text is looked for, and after which of its texts: those before were skipped."""
    return _source(request.query_params.get("queue", "")), request.query_params.get("after", "")


def _source(text: str) -> Source:
    return next((source for source in Source if source == text), Source.AUDIT)
