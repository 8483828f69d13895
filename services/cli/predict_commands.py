"""`baton predict`: asks a served model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from baton.errors import InvalidInput
from services.cli import show
from services.cli.terminal import AsJson, ConfigFile, Model, connect, out, print_json

LABELS_SHOWN = 3


def predict(
    model: Model,
    texts: Annotated[list[str], typer.Argument(help="Texts; for question answering, questions.", metavar="TEXT…")],
    config: ConfigFile = None,
    context: Annotated[str | None, typer.Option(help="Text that holds the answers (question answering).")] = None,
    context_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File with that text.", metavar="FILE")
    ] = None,
    pair: Annotated[str | None, typer.Option(help="Second text to classify each TEXT with.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Labels or answers to show [default: 3 labels, 1 answer].")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a served model.

    `baton predict intents "I was charged twice"` · `baton predict help "Who may refund?" --context-file policy.txt`
    """
    if context_file is not None:
        if context is not None:
            raise InvalidInput("--context and --context-file are two ways to give one text; leave one of them out")
        context = _read_text(context_file)
    with connect(config) as client:
        task = client.get(f"/models/{model}/info")["task"]
        inputs = [_input(task, text, context, pair) for text in texts]
        choices = top_k or (LABELS_SHOWN if task in ("classification", "multi_label") else None)
        parameters: dict[str, Any] = {"top_k": choices} if choices else {}
        answer = client.predict(model, inputs, **parameters)
    if as_json:
        print_json({"version": answer.version, "request_id": answer.request_id, "answers": answer.outputs})
    else:
        out.print(show.predictions(task, inputs, answer))


def _input(task: str, text: str, context: str | None, pair: str | None) -> Any:
    """What the model is asked, as its task takes it."""
    if pair is not None and task not in ("classification", "multi_label"):
        raise InvalidInput(f"--pair is for classification; this model's task is {task}")
    if task == "qa":
        if context is None:
            raise InvalidInput("this model answers questions on a text; give it with --context TEXT or --context-file FILE")
        return {"question": text, "context": context}
    if context is not None:
        raise InvalidInput(f"--context is for question answering; this model's task is {task}")
    return text if pair is None else {"text": text, "text_pair": pair}


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read as UTF-8 text: {error}") from error
