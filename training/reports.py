"""Reports in the storage: each version's answers, and what `training.judge.report` makes of a match."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

from baton.store.records import Evaluation
from baton.tasks import AnyTask
from baton.tasks.base import Mark
from baton.text.masks import masker
from training.context import Context
from training.judge.decision import Contender, Judged
from training.judge.evaluate import Told
from training.judge.report import Explain, make_report

logger = logging.getLogger(__name__)


def keep_answers(context: Context, version: int, holdout_hash: str, answers: Sequence[Told]) -> None:
    """Store a version's answers on a holdout for the reports of all matches that it will play on it."""
    context.storage.write_report(_answers_path(context, version, holdout_hash), _json(answers))


def kept_answers(context: Context, evaluation: Evaluation) -> list[Told] | None:
    """Return the answers of an evaluation; None if none were kept under today's patterns of personal data.

    Answers that Baton 0.1 kept are words alone.
    """
    content = context.storage.read_report(_answers_path(context, evaluation.version, evaluation.holdout_hash))
    if content is None:
        return None
    kept = ((one, ()) if isinstance(one, str) else one for one in json.loads(content))
    return [Told(words, tuple(Mark(*mark) for mark in marks)) for words, marks in kept]


def store_report(
    context: Context,
    task: AnyTask,
    judged: Judged,
    candidate: Contender,
    champion: Contender | None,
    *,
    examples: Sequence[Any],
    answers: Sequence[Sequence[Told] | None],
    explain: Explain,
) -> str | None:
    """Store the report of a match and return its path in the storage; the arguments are those of `make_report`.

    None if it cannot be made or stored, for whatever reason: a decision must not be lost with its report.
    """
    decision, policy = judged.decision, context.declared.gate
    try:
        report = make_report(
            task,
            judged,
            candidate,
            champion,
            policy=policy,
            examples=examples,
            answers=answers,
            mask=masker(context.declared.feedback.redact),
            explain=explain,
        )
        content = _json(report)
        name = f"v{decision.candidate}-{hashlib.sha256(content + _json(decision.policy)).hexdigest()[:16]}"
        path = f"{_directory(context)}/{name}.json"
        context.storage.write_report(path, content)
    except Exception:
        logger.exception("%s: the report on v%d could not be made", decision.model, decision.candidate)
        return None
    return path


def _answers_path(context: Context, version: int, holdout_hash: str) -> str:
    """Return where answers lie. Answers that were masked with other patterns lie elsewhere."""
    patterns = hashlib.sha256(_json(context.declared.feedback.redact)).hexdigest()
    return f"{_directory(context)}/answers/v{version}-{holdout_hash[:16]}-{patterns[:8]}.json"


def _directory(context: Context) -> str:
    return f"models/{context.settings.name}/reports"


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
