"""`baton predict`: send texts to a served model and print its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from baton.errors import InvalidInput
from services.cli.terminal import AsJson, ConfigFile, Model, connect, out, print_json
from services.tables import show_predictions

UNEXPLAINED = ("qa", "seq2seq")
"""Tasks whose answers are not explained."""

LABELS_SHOWN = 3
"""Labels per text that are shown without ``--top-k``."""


def predict(
    context: typer.Context,
    model: Model,
    texts: Annotated[list[str], typer.Argument(help="Texts to send; for question answering, the questions.", metavar="TEXT…")],
    config: ConfigFile = None,
    passage: Annotated[
        str | None, typer.Option("--context", metavar="TEXT", help="Find the answers in this text (question answering only).")
    ] = None,
    passage_file: Annotated[
        Path | None,
        typer.Option(
            "--context-file",
            exists=True,
            dir_okay=False,
            help="Find the answers in the text of this UTF-8 file (question answering only).",
            metavar="FILE",
        ),
    ] = None,
    pair: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Classify each TEXT together with this second text (classification only)."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Show this many labels or answers [default: 3 labels, 1 answer].")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each word adds to the score (classification and NER).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send texts to a served model and print its answers.

    `baton predict intents "I was charged twice"` · `baton predict help "Who may refund?" --context-file policy.txt`
    """
    if passage_file is not None:
        if passage is not None:
            raise InvalidInput("give --context or --context-file, not both")
        passage = _read_text(passage_file)
    with connect(context, config) as client:
        task = client.get(f"/models/{model}/info")["task"]
        inputs = [_input(task, text, passage, pair) for text in texts]
        if top_k is None and task in ("classification", "multi_label"):
            top_k = LABELS_SHOWN
        parameters: dict[str, Any] = {} if top_k is None else {"top_k": top_k}
        if explain:
            if task in UNEXPLAINED:
                raise InvalidInput(f"--explain is for classification and NER; this model's task is {task}")
            parameters["explain"] = True
        answer = client.predict(model, inputs, **parameters)
    if as_json:
        print_json(
            {
                "version": answer.version,
                "answer_id": answer.answer_id,
                "request_id": answer.request_id,
                "answers": answer.outputs,
                "unsure": answer.unsure,
            }
        )
    else:
        out.print(show_predictions.predictions(task, inputs, answer))


def _input(task: str, text: str, passage: str | None, pair: str | None) -> Any:
    """Return one input in the form that ``task`` takes.

    Raises:
        InvalidInput: an option does not fit the task.
    """
    if pair is not None and task not in ("classification", "multi_label"):
        raise InvalidInput(f"--pair is for classification; this model's task is {task}")
    if task == "qa":
        if passage is None:
            raise InvalidInput("this model finds answers in a text; give the text with --context TEXT or --context-file FILE")
        return {"question": text, "context": passage}
    if passage is not None:
        raise InvalidInput(f"--context is for question answering; this model's task is {task}")
    return text if pair is None else {"text": text, "text_pair": pair}


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read as UTF-8 text: {error}") from error
