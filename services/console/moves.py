"""What moves versions: promote, roll back, reject, canary, shadow, and the end of a trial; and the history as a logbook.

Each move is a page that says what will happen, with a form that needs a reason. The control plane does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.config.model_settings import LONGEST_TRIAL_MINUTES, MAX_CANARY_PERCENT
from baton.errors import BatonError, Conflict, InvalidInput, NotFound
from baton.store.records import PAGE, RolloutMode
from services.console.gate import ROOT
from services.console.language import Words
from services.console.pages import Form, Pages, number_of, reason_of, see, time_of, visit_of
from services.control.api.protocol import ControlPlane
from services.control.api.rollout import TrialRequest, described

Act = Callable[[ControlPlane, str, Form, str, str | None], Awaitable[None]]
"""Carries a move out: on a model, with the fields and the reason of a form, for the key with a name (None: no key)."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """Something that an operator can do."""

    title: Words
    effect: Words
    """What will happen, as a sentence."""
    done: Words
    """What has happened then."""
    act: Act
    needs_version: bool = True
    trial: bool = False
    """Whether it asks for a share of the requests, and for how long."""
    danger: bool = False


async def _promote(control: ControlPlane, model: str, form: Form, reason: str, by: str | None) -> None:
    version = number_of(form.get("version", ""), "version")
    decision, promotion = await control.promote(model, version, force=False, reason=reason, by=by)
    if promotion is None:
        raise Conflict(decision.sentence)


async def _force(control: ControlPlane, model: str, form: Form, reason: str, by: str | None) -> None:
    await control.promote(model, number_of(form.get("version", ""), "version"), force=True, reason=reason, by=by)


async def _reject(control: ControlPlane, model: str, form: Form, reason: str, by: str | None) -> None:
    await control.rollouts.reject(model, number_of(form.get("version", ""), "version"), reason, by)


async def _roll_back(control: ControlPlane, model: str, form: Form, reason: str, by: str | None) -> None:
    version = form.get("version", "")
    await control.rollouts.rollback(model, number_of(version, "version") if version else None, reason, by)


async def _end_trial(control: ControlPlane, model: str, form: Form, reason: str, by: str | None) -> None:
    await control.rollouts.end_trial(model, reason, by)


def _trial(mode: RolloutMode) -> Act:
    async def start(control: ControlPlane, model: str, form: Form, reason: str, by: str | None) -> None:
        try:
            wanted = TrialRequest.model_validate(
                {
                    "version": form.get("version"),
                    "mode": mode.value,
                    "percent": form.get("percent"),
                    "minutes": form.get("minutes") or None,
                    "reason": reason,
                }
            )
        except ValidationError as error:
            raise InvalidInput(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error
        await control.rollouts.start_trial(model, wanted.version, wanted.trial(by))

    return start


MOVES: Mapping[str, Move] = {
    "promote": Move(
        title=Words("Promote"),
        effect=Words("The gate compares it with the champion. If it wins, it takes over without losing a request."),
        done=Words("It serves now."),
        act=_promote,
    ),
    "force": Move(
        title=Words("Promote without the gate"),
        effect=Words("It takes over whatever the gate says. The reason stays in the history."),
        done=Words("It serves now."),
        act=_force,
        danger=True,
    ),
    "canary": Move(
        title=Words("Canary"),
        effect=Words("It answers a share of the requests, and goes back by itself if something speaks against it."),
        done=Words("The trial has begun."),
        act=_trial(RolloutMode.CANARY),
        trial=True,
    ),
    "shadow": Move(
        title=Words("Shadow"),
        effect=Words("It gets a copy of a share of the requests. Nobody gets its answers; they are compared."),
        done=Words("The trial has begun."),
        act=_trial(RolloutMode.SHADOW),
        trial=True,
    ),
    "reject": Move(
        title=Words("Reject"),
        effect=Words("Its roll-out ends, and nothing but force promotes it."),
        done=Words("It will not take over."),
        act=_reject,
        danger=True,
    ),
    "rollback": Move(
        title=Words("Roll back"),
        effect=Words("This earlier champion serves again, and the present one goes."),
        done=Words("The earlier champion serves again."),
        act=_roll_back,
        danger=True,
    ),
    "end-trial": Move(
        title=Words("End the trial"),
        effect=Words("The champion answers everything again."),
        done=Words("The trial has ended."),
        act=_end_trial,
        needs_version=False,
    ),
}
"""The moves by the name in their path."""


def move_routes(pages: Pages) -> list[Route]:
    """Return the routes of moves and of the history."""
    control = pages.control
    registry = control.registry

    async def move(request: Request) -> Response:
        settings = pages.settings(request)
        name = request.path_params["move"]
        if name not in MOVES:
            raise NotFound("there is no such page")
        found, problem, status = MOVES[name], None, 200
        values: Mapping[str, str] = request.query_params
        if request.method == "POST":
            values = form = await pages.form(request)
            try:
                key = visit_of(request).key
                await found.act(control, settings.name, form, reason_of(form), key.name if key else None)
            except BatonError as error:
                problem, status = str(error), error.status
            else:
                return see(f"{ROOT}/models/{settings.name}/history?done={name}")
        elif found.needs_version:
            await asyncio.to_thread(registry.versions.get, settings.name, number_of(values.get("version", ""), "version"))
        return pages.render(
            request,
            "move.html",
            status,
            model=settings,
            tab="history",
            move=found,
            values=values,
            problem=problem,
            champion=(await asyncio.to_thread(registry.champion, settings.name)).version,
            most_percent=MAX_CANARY_PERCENT if name == "canary" else 100,
            most_minutes=LONGEST_TRIAL_MINUTES,
        )

    def history(request: Request) -> Response:
        settings = pages.settings(request)
        name = settings.name
        before = request.query_params.get("before")
        entries = registry.history.list(name, before=time_of(before, "before") if before else None)
        newest = registry.rollouts.active(name) or next(iter(registry.rollouts.list(name, limit=1)), None)
        return pages.render(
            request,
            "history.html",
            model=settings,
            tab="history",
            entries=entries,
            next=entries[-1].at.isoformat() if len(entries) == PAGE else None,
            first=before is None,
            rollout=None if newest is None else described(newest),
            done=MOVES[done].done if (done := request.query_params.get("done", "")) in MOVES else None,
            champion=registry.champion(name).version,
            previous=registry.previous_champion(name),
        )

    path = f"{ROOT}/models/{{model}}"
    return [
        Route(f"{path}/move/{{move}}", move, methods=["GET", "POST"]),
        Route(f"{path}/history", history, methods=["GET"]),
    ]
