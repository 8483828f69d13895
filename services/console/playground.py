"""The playground of a model: a text in, its answer as a picture, and a correction that becomes feedback.

It asks the model over HTTP, as an application does, with the key of the session; so keys, limits, the prediction log, canaries
and live quality work as for every other request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.client import AsyncClient, Prediction
from baton.config.file import HttpSettings
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, InvalidInput
from baton.keys import Scope
from baton.quality.confidence import UNREACHED, abstain_below
from services.console.gate import ROOT, Visit
from services.console.pages import Form, Pages, visit_of
from services.control.api.feedback import intake_of
from services.control.control_metrics import ControlMetrics
from services.control.corrections import Item

FIELDS: Mapping[str, Sequence[str]] = {"qa": ("question", "context"), "seq2seq": ("source",)}
"""Fields of the inputs of a task; ``text`` for those that are not named."""

KINDS = 6
"""Number of colours for types of entities."""

KINDS_OFFERED = 100
"""Number of types that are offered for an entity that is added."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a text: plain, or marked."""

    text: str
    label: str = ""
    score: float | None = None
    kind: int = 0
    marked: bool = False


def playground_routes(pages: Pages, metrics: ControlMetrics) -> list[Route]:
    """Return the routes of the playground."""
    registry = pages.control.registry

    async def show(request: Request) -> Response:
        settings = pages.settings(request)
        form = await pages.form(request) if request.method == "POST" else request.query_params
        return await answer(request, settings, inputs_of(settings, form))

    async def correct(request: Request) -> Response:
        settings, visit = pages.settings(request), visit_of(request)
        form = await pages.form(request)
        inputs = inputs_of(settings, form)
        intake = intake_of(pages.control, settings, visit.key)
        item = {**inputs, **answer_of(settings, inputs, form)}
        if answer_id := form.get("answer_id"):
            item |= {"id": f"console:{answer_id}", "answer_id": answer_id}
        await intake.take([Item(index=0, value=item)])
        metrics.count_feedback(settings.name, intake.accepted, intake.duplicates, intake.rejected)
        problem = intake.rejection() if intake.all_rejected else None
        return await answer(request, settings, inputs, problem=problem, stored=None if problem else correction_text(item))

    async def answer(
        request: Request,
        settings: ModelSettings,
        inputs: Mapping[str, str],
        *,
        problem: str | None = None,
        stored: str | None = None,
    ) -> Response:
        visit = visit_of(request)
        found: Prediction | None = None
        status = 200 if problem is None else InvalidInput.status
        if all(inputs.values()) and stored is None and visit.may(Scope.PREDICT, settings.name):
            try:
                found = await ask(pages.control.config.http, settings, inputs, visit)
            except BatonError as error:
                problem, status = problem or str(error), error.status
        waiting = None
        if stored is not None:
            situation, _ = await asyncio.to_thread(pages.control.retrainer.assess, settings)
            waiting = situation.new_examples
        version = None if found is None else await asyncio.to_thread(registry.versions.get, settings.name, found.version)
        return pages.render(
            request,
            "playground.html",
            status,
            model=settings,
            tab="playground",
            inputs=inputs,
            share=f"{ROOT}/models/{settings.name}/playground?{urlencode(inputs)}",
            answer=found,
            scores=[] if found is None or settings.task not in ("classification", "multi_label") else found.outputs,
            spans=spans_of(settings, inputs, found),
            least=None if version is None else abstain_below(settings.serving, version.metrics),
            kinds=[] if version is None else kinds_of(version.lineage.get("labels", ())),
            problem=problem,
            stored=stored,
            waiting=waiting,
            unreached=UNREACHED,
            corrects=settings.feedback.accept and visit.may(Scope.FEEDBACK, settings.name),
        )

    path = f"{ROOT}/models/{{model}}"
    return [
        Route(f"{path}/playground", show, methods=["GET", "POST"]),
        Route(f"{path}/feedback", correct, methods=["POST"]),
    ]


async def ask(http: HttpSettings, settings: ModelSettings, inputs: Mapping[str, str], visit: Visit) -> Prediction:
    """Return the answer of a model, asked through the proxy of this node.

    Raises ``ServiceError`` as the model answers, and ``NotReady`` if it does not.
    """
    asked: Any = dict(inputs) if len(inputs) > 1 else next(iter(inputs.values()))
    async with AsyncClient(http.url, key=visit.token, retries=0) as client:
        return await client.predict(settings.name, asked)


def inputs_of(settings: ModelSettings, form: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs of a model's task that a form or a query has; empty ones for those that it lacks."""
    # Browsers end the lines of a text that they send with CR LF, and those that they show with LF.
    return {name: as_shown(form.get(name, "")) for name in FIELDS.get(settings.task, ("text",))}


def as_shown(text: str) -> str:
    """Return a text with its line ends as a browser shows them (HTML, "normalize newlines"): each one is a single LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def answer_of(settings: ModelSettings, inputs: Mapping[str, str], form: Form) -> dict[str, Any]:
    """Return the right answer that a form gives, in the fields of a row of the task. Raises ``InvalidInput``."""
    match settings.task:
        case "multi_label":
            added = [form["other"].strip()] if form.get("other", "").strip() else []
            return {"label": list(dict.fromkeys([*form.getlist("label"), *added]))}
        case "ner":
            return {"entities": _entities(inputs["text"], form)}
        case "qa":
            return {"answers": _answers(inputs["context"], form)}
        case "seq2seq":
            return {"target": form.get("target", "").replace("\r\n", "\n").strip()}
    return {"label": form.get("other", "").strip() or form.get("label", "")}


def correction_text(item: Mapping[str, Any]) -> str:
    """Return the answer of a correction in words."""
    if "label" in item:
        return ", ".join(item["label"]) if isinstance(item["label"], list) else str(item["label"])
    if "entities" in item:
        return ", ".join(f"{item['text'][it['start'] : it['end']]} ({it['label']})" for it in item["entities"])
    return str(item["target"]) if "target" in item else ", ".join(item["answers"]["text"])


def spans_of(settings: ModelSettings, inputs: Mapping[str, str], answer: Prediction | None) -> list[Piece]:
    """Return the text of an answer in pieces: entities, or the answer in its context, are marked."""
    if answer is None or settings.task not in ("ner", "qa"):
        return []
    if settings.task == "qa":
        text, found = inputs["context"], [{**answer.outputs, "entity_group": ""}] if answer.outputs["answer"] else []
    else:
        text, found = inputs["text"], sorted(answer.outputs, key=lambda entity: int(entity["start"]))
    kinds = {name: place % KINDS for place, name in enumerate(sorted({it["entity_group"] for it in found}))}
    pieces, position = [], 0
    for it in found:
        label, score = it["entity_group"], it["score"]
        pieces.append(Piece(text=text[position : it["start"]]))
        pieces.append(Piece(text=text[it["start"] : it["end"]], label=label, score=score, kind=kinds[label], marked=True))
        position = it["end"]
    return [*pieces, Piece(text=text[position:])]


def kinds_of(labels: Sequence[str]) -> list[str]:
    """Return the types of entities of a model, whose labels say how a word stands in one (``B-PER``)."""
    return sorted({label.partition("-")[2] or label for label in labels} - {"O"})[:KINDS_OFFERED]


def _entities(text: str, form: Form) -> list[dict[str, Any]]:
    """Return the entities that were kept, with those that were added by their words."""
    found: list[dict[str, Any]] = []
    for kept in form.getlist("keep"):
        start, _, rest = kept.partition(":")
        end, _, label = rest.partition(":")
        if not (start.isdecimal() and end.isdecimal()):
            raise InvalidInput(f"keep: {kept[:50]!r}; START:END:TYPE is expected")
        found.append({"start": int(start[:9]), "end": int(end[:9]), "label": label})
    added = [(form.get("words", ""), form.get("kind", ""), form.get("words-start", ""))]
    added += [(words, kind, "") for words, _, kind in (line.rpartition("=") for line in form.get("more", "").splitlines())]
    for words, kind, told in ((words.strip(), kind.strip(), told) for words, kind, told in added):
        if words or kind:
            place, stop = _place(text, words, told)
            found.append({"start": place, "end": stop, "label": kind})
    return sorted(found, key=lambda entity: int(entity["start"]))


def _answers(context: str, form: Form) -> dict[str, Any]:
    words = form.get("words", "").strip()
    if not words or form.get("none"):
        return {"text": [], "answer_start": []}
    start, end = _place(context, words, form.get("words-start", ""))
    return {"text": [context[start:end]], "answer_start": [start]}


def _place(text: str, words: str, told: str) -> tuple[int, int]:
    """Return where words begin and end in a text: where they were selected, else their first place.

    ``told``: where the selection begins in the text as a browser shows it; a text from elsewhere may end its lines with CR LF.
    """
    if not words:
        raise InvalidInput("the words of an entity are missing")
    shown = as_shown(text)
    selected = int(told[:9]) if told.isascii() and told.isdigit() else None
    start = selected if selected is not None and shown.startswith(words, selected) else shown.find(words)
    if start < 0:
        raise InvalidInput(f"{words!r} is not in the text; copy the words as they stand there")
    return _as_stored(text, start), _as_stored(text, start + len(words))


def _as_stored(text: str, place: int) -> int:
    """Return the place in a text of the character at ``place`` in the same text as a browser shows it."""
    for line_end in re.finditer("\r\n", text):
        if line_end.start() >= place:
            break
        place += 1
    return place
