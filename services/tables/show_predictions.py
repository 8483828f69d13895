"""Answers of a model for a terminal, drawn by task. Knows rich and the shapes of docs/tasks.md; knows no HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from baton.client import Prediction
from services.tables.show import grid

ENTITY_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
SHOWN_ATTRIBUTION = 0.02
"""Least change of a score for which a word is coloured."""
CONTEXT_CHARACTERS = 120
"""Characters of the context that are shown on either side of the best answer."""


def predictions(task: str, inputs: Sequence[Any], answer: Prediction) -> RenderableType:
    """Return the answers to ``inputs``, and a line with their version, times and request id.

    Labels are listed with their scores, entities are coloured in their text, answers to questions are highlighted in their
    context, and what a model wrote stands below its source. Answers of other tasks are shown as JSON.
    """
    drawn = {"classification": _labels, "multi_label": _labels, "ner": _entities, "qa": _answers, "seq2seq": _texts}
    render = drawn.get(task, _as_json)
    times = f"{answer.inference_ms:.2f} ms inference, {answer.queue_ms:.2f} ms queue"
    source = Text(f"v{answer.version}, {times}, answer {answer.answer_id}", style="dim")
    return Group(render(inputs, answer.outputs), *_explanations(inputs, answer.outputs), *_unsure(answer, len(inputs)), source)


def _explanations(inputs: Sequence[Any], answers: Sequence[Any]) -> list[RenderableType]:
    """Return each explained text with what its words add to the score: green speaks for the answer, red against it."""
    lines: list[RenderableType] = []
    for text, answer in zip(inputs, answers, strict=True):
        for part in answer if isinstance(answer, list) else []:
            if not isinstance(part, dict) or "explanation" not in part:
                continue
            named = part["label"] if "label" in part else f"{part['word']} [{part['entity_group']}]"
            line = Text.assemble((f"why {named}: ", "bold"))
            position = 0
            for one in part["explanation"]["parts"]:
                line.append(text[position : one["start"]])
                style = "green" if one["score"] >= 0 else "red"
                shown = abs(one["score"]) >= SHOWN_ATTRIBUTION
                line.append(text[one["start"] : one["end"]], style=style if shown else "")
                line.append(f" {one['score']:+.2f}" if shown else "", style=f"dim {style}")
                position = one["end"]
            line.append(text[position:])
            line.append(f"  (without any word {part['explanation']['baseline']:.2f})", style="dim")
            lines.append(line)
    return lines


def _unsure(answer: Prediction, texts: int) -> list[Text]:
    """Return a line that says which answers are too unsure to act on, if any are."""
    if not answer.unsure:
        return []
    which = f" to {', '.join(f'text {position + 1}' for position in answer.unsure)}" if texts > 1 else ""
    return [Text(f"the answer{which} is too unsure to act on (serving.abstain_below or target_precision)", style="yellow")]


def _as_json(inputs: Sequence[Any], answers: Sequence[Any]) -> RenderableType:
    return Text("\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers))


def _labels(inputs: Sequence[Any], answers: Sequence[Any]) -> RenderableType:
    """Return a table with one line per label, best first. Bold: the best label, or the assigned ones of a multi-label model."""
    table = grid("text", "label", "score")
    for item, answer in zip(inputs, answers, strict=True):
        text = item if isinstance(item, str) else f"{item['text']} ⟷ {item['text_pair']}"
        for row, choice in enumerate(answer):
            applies = choice.get("assigned", row == 0)
            label = Text(choice["label"] + (" ✓" if choice.get("assigned") else ""), style="bold" if applies else "")
            table.add_row(Text(text if row == 0 else ""), label, f"{choice['score']:.3f}")
    return table


def _entities(inputs: Sequence[Any], answers: Sequence[Any]) -> RenderableType:
    """Return each text with its entities coloured by type. The type and the score follow each entity."""
    types = sorted({entity["entity_group"] for answer in answers for entity in answer})
    styles = {name: ENTITY_COLOURS[number % len(ENTITY_COLOURS)] for number, name in enumerate(types)}
    lines = []
    for text, answer in zip(inputs, answers, strict=True):
        line, position = Text(), 0
        for entity in answer:
            style = styles[entity["entity_group"]]
            line.append(text[position : entity["start"]])
            line.append(text[entity["start"] : entity["end"]], style=f"bold {style}")
            line.append(f" [{entity['entity_group']} {entity['score']:.2f}]", style=style)
            position = entity["end"]
        line.append(text[position:])
        lines.append(line)
    return Group(*lines)


def _answers(inputs: Sequence[Any], answers: Sequence[Any]) -> RenderableType:
    """Return each question, its answers with their scores, and the part of the context around the best answer."""
    lines = []
    for item, answer in zip(inputs, answers, strict=True):
        choices = answer if isinstance(answer, list) else [answer]
        line = Text.assemble((item["question"], "bold"), "\n")
        for choice in choices:
            line.append(choice["answer"] or "no answer in this text", style="green" if choice["answer"] else "yellow")
            line.append(f" ({choice['score']:.3f})\n")
        best = choices[0]
        if best["answer"]:
            line.append_text(_highlighted(item["context"], best["start"], best["end"]))
        lines.append(line)
    return Group(*lines)


def _texts(inputs: Sequence[Any], answers: Sequence[Any]) -> RenderableType:
    """Return each source with the text that answers it."""
    lines = []
    for source, answer in zip(inputs, answers, strict=True):
        text = answer["generated_text"]
        lines.append(Text.assemble((source, "bold"), "\n", (text or "no text", "green" if text else "yellow")))
    return Group(*lines)


def _highlighted(context: str, start: int, end: int) -> Text:
    """Return ``context[start:end]`` highlighted, with some context on either side."""
    first, last = max(0, start - CONTEXT_CHARACTERS), end + CONTEXT_CHARACTERS
    before = "… " if first > 0 else ""
    after = " …" if last < len(context) else ""
    return Text.assemble(
        (before + context[first:start], "dim"),
        (context[start:end], "bold reverse green"),
        (context[end:last] + after, "dim"),
    )
