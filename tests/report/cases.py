"""Real reports: small holdouts and answers, judged by the gate, as the API answers them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from baton.config.model_settings import GateSettings
from baton.store.records import Champion, Evaluation
from baton.tasks import AnyTask
from baton.tasks.classification import Classification, TextExample
from baton.tasks.multi_label import MultiLabel, MultiLabelExample, MultiLabelScores
from baton.tasks.ner import Ner
from baton.tasks.ner_entities import Entities, Entity
from baton.tasks.ner_rows import NerExample, NerInput, Span
from baton.tasks.qa import Answer, Answers, QuestionAnswering
from baton.tasks.qa_rows import QaExample, References
from baton.tasks.text_classifier import LabelScores, TextInput
from baton.text.masks import masker
from training.judge.decision import Contender, decide_match
from training.judge.evaluate import Told
from training.judge.holdout import describe_holdout
from training.judge.reasons import Reason
from training.judge.report import make_report

Json = dict[str, Any]
MASK = masker([r"\S+@\S+"])
LABELS = ("account", "billing", "refund", "shipping")
TEXTS = {
    "account": "I cannot log in to my account since the update, and the reset link never comes to {name}@example.com",
    "billing": "Why was I charged twice for order {number} in March?",
    "refund": "Please send my money for order {number} back, it arrived broken",
    "shipping": "Where is parcel {number}? It left Lisbon on Monday",
}


def judge(
    task: AnyTask,
    rows: Sequence[Any],
    ours: Sequence[Any],
    theirs: Sequence[Any] | None,
    *,
    policy: Mapping[str, Any] | None = None,
    number: int = 1,
    audited: int = 0,
    slices: Sequence[Mapping[str, str]] = (),
    labels: Sequence[str] = (),
    kept: bool = True,
    model: str = "tickets",
    cost: Sequence[tuple[float, float]] = ((23.4, 4.1), (91.2, 9.8)),
) -> Json:
    """What `GET /api/models/M/versions/8/report` answers after a match of these typed outputs, v8 against v7."""
    settings = GateSettings.model_validate(policy or {})
    marks = [{"unit": None, "slices": of_row} for of_row in slices]
    holdout = describe_holdout(type(task), rows, "5f0c" * 16, audited=audited, marks=marks)
    contenders, answers = [], []
    for version, outputs, (megabytes, latency) in zip((8, 7), (ours, theirs), cost, strict=True):
        if outputs is None:
            continue
        score = task.score(outputs, rows)
        evaluation = Evaluation(
            id=version,
            model=model,
            version=version,
            holdout_hash=holdout.hash,
            metrics={**score.metrics, "megabytes": megabytes, "latency_ms": latency},
            statistics=score.statistics,
            created_at=datetime.now(UTC),
        )
        contenders.append(Contender(evaluation=evaluation, labels=labels or task.answer_labels))
        answers.append([told(task, output, MASK(task.input_of(row))) for output, row in zip(outputs, rows, strict=True)])
    champion = contenders[1] if theirs is not None else None
    pointer = Champion(version=7 if champion else None, sequence=3)
    judged = decide_match(task, holdout, contenders[0], champion, pointer=pointer, number=number, policy=settings)
    report = make_report(
        task,
        judged,
        contenders[0],
        champion,
        policy=settings,
        examples=rows,
        answers=[answers[0] if kept else None, answers[-1] if kept and champion else None],
        mask=MASK,
        explain=lambda inputs: [[counting(MASK(item), score) for item in inputs] for score in (0.41, -0.052)],
    )
    facts = {
        "marks_hash": "",
        "dataset": {"number": 4, "hash": "9d" * 32, "audited": audited},
        "manifests": ["c4" * 32, "b7" * 32 if champion else None],
    }
    decision = replace(judged.decision, id=31, created_at=datetime(2026, 12, 1, 9, 30, tzinfo=UTC))
    stored = {**asdict(decision), "numbers": {**decision.numbers, **facts}, "created_at": "2026-12-01T09:30:00+00:00"}
    return {"decision": json.loads(json.dumps(stored)), "report": json.loads(json.dumps(report))}


def counting(item: Any, score: float) -> list[Reason]:
    """Words as `training.judge.reasons` names them, of an input that has one text: its first and its last."""
    words = item.text.split() if isinstance(item, TextInput | NerInput) else []
    of = f"{words[-1]} PLACE" if isinstance(item, NerInput) else ""
    return [(of, [(words[0], score), (words[-1], 0.0304)])] if words else []


def told(task: AnyTask, output: Any, item: Any) -> Told:
    brief = task.brief(output, item)
    return Told(task.in_words(brief), task.marks_of(brief, item))


# --- classification ------------------------------------------------------------------------------------------------------


def classified(rows: Sequence[TextExample], wrong: Sequence[int], labels: Sequence[str]) -> list[LabelScores]:
    """Answers that are right but for these rows, which get the next label."""
    place = {label: index for index, label in enumerate(labels)}
    given = [labels[(place[row.label] + (number in set(wrong))) % len(labels)] for number, row in enumerate(rows)]
    return [
        LabelScores(labels=(label, *(one for one in labels if one != label)), scores=(0.91, *([0.01] * (len(labels) - 1))))
        for label in given
    ]


def tickets(count: int = 600) -> list[TextExample]:
    names = [LABELS[number % 4] for number in range(count)]
    return [
        TextExample(text=TEXTS[name].format(number=4000 + number, name=f"anna{number}"), label=name)
        for number, name in enumerate(names)
    ]


def win() -> Json:
    rows = tickets()
    languages = [{"language": ("en", "de", "pt")[number % 3]} if number < 400 else {} for number in range(600)]
    ours, theirs = [*range(0, 600, 17), *range(1, 40, 8)], [*range(0, 600, 7), *range(3, 90, 12)]
    return classification(rows, ours, theirs, audited=200, slices=languages, number=2)


def loss() -> Json:
    rows = tickets()
    return classification(rows, range(0, 600, 4), range(1, 600, 40), policy={"max_megabytes": 100, "max_latency_ms": 10})


def too_large() -> Json:
    return classification(tickets(), range(0, 600, 20), range(0, 600, 7), policy={"max_megabytes": 20})


def few_rows() -> Json:
    return classification(tickets(20), [1], [1, 2, 3])


def unsure() -> Json:
    return classification(tickets(200), range(0, 200, 11), range(0, 200, 10), policy={"min_gain": 0.01})


def unchanged() -> Json:
    """A regression without changed texts: both versions answer the same."""
    return classification(tickets(200), range(0, 200, 11), range(0, 200, 11))


def unkept() -> Json:
    return classification(tickets(200), range(0, 200, 50), range(0, 200, 10), kept=False)


def first() -> Json:
    return classification(tickets(), range(0, 600, 9), None)


def classification(rows: Sequence[TextExample], ours: Sequence[int], theirs: Sequence[int] | None, **more: Any) -> Json:
    labels = sorted({row.label for row in rows})
    task: AnyTask = Classification(labels, 32)
    champion = None if theirs is None else classified(rows, theirs, labels)
    return judge(task, rows, classified(rows, ours, labels), champion, **more)


def many_labels() -> Json:
    names = [f"intent_{number:03d}_{'abcdefg'[number % 7] * (1 + number % 30)}" for number in range(151)]
    rows = [TextExample(text=f"text {number} of {names[number % 151]}", label=names[number % 151]) for number in range(1510)]
    wrong = [number for number in range(1510) if number % 151 < 40 and number % 3 == 0]
    return classification(rows, [*range(0, 1510, 29), *wrong[:20]], [*range(0, 1510, 7)])


HOSTILE = '<img src=x onerror="alert(1)">'


def hostile() -> Json:
    """Markup in every text of a user, and in what users can name."""
    labels = (f"{HOSTILE}a", "</td><script>alert(2)</script>", "{{ 7*7 }}", "'\"><style>*{}</style>")
    rows = [TextExample(text=f"{HOSTILE} & </article><h1>{number}", label=labels[number % 4]) for number in range(200)]
    slices = [{"<b>channel</b>": HOSTILE} if number < 100 else {} for number in range(200)]
    item = classification(
        rows, range(0, 200, 20), range(0, 200, 4), slices=slices, model="<script>alert(3)</script>", audited=80
    )
    item["decision"]["reason"] = f"{HOSTILE}</p>because"
    return item


def long_and_foreign() -> Json:
    """Very long texts without a space, Chinese ones, and ones that are read from right to left."""
    texts = [
        "z" * 5000,
        "客户说包裹没有到，请尽快退款。" * 40,
        "أين طردي؟ لقد دفعت مرتين في شهر مارس، أعيدوا المال من فضلكم",
        "Where?",
    ]
    labels = ("退款申请", "شحن", "a_label_with_a_very_long_name_that_nobody_would_like_to_read_in_a_narrow_table", "b")
    rows = [TextExample(text=f"{texts[number % 4]} {number}", label=labels[number % 4]) for number in range(240)]
    return classification(rows, range(0, 240, 20), [*range(0, 240, 6), *range(1, 240, 5), *range(2, 240, 9)])


# --- the other tasks -----------------------------------------------------------------------------------------------------


def multi_label() -> Json:
    labels = ("billing", "complaint", "urgent")
    rows = [
        MultiLabelExample(
            text=f"Ticket {number}: charged twice, answer today",
            label=tuple(label for place, label in enumerate(labels) if (number >> place) & 1),
        )
        for number in range(400)
    ]

    def answers(every: int) -> list[MultiLabelScores]:
        found = []
        for number, row in enumerate(rows):
            applying = set(row.label) ^ ({"urgent"} if number % every == 0 else set())
            order = sorted(labels, key=lambda label: (label not in applying, label))
            scores = tuple(0.9 if label in applying else 0.1 for label in order)
            found.append(
                MultiLabelScores(labels=tuple(order), scores=scores, assigned=tuple(label in applying for label in order))
            )
        return found

    task: AnyTask = MultiLabel(labels, 32)
    return judge(task, rows, answers(23), answers(5))


def ner() -> Json:
    people, towns = ("Clara Weiss", "José", "王芳"), ("Lisbon", "Porto", "São Paulo")
    rows = []
    for number in range(400):
        person, town = people[number % 3], towns[number % 3]
        text = f"Ticket {number}: {person} moved to {town} and wrote to anna@example.com about it."
        spans = [(text.index(person), person, "PER"), (text.index(town), town, "LOC")]
        rows.append(
            NerExample(
                text=text,
                entities=tuple(Span(start=start, end=start + len(word), label=label) for start, word, label in spans),
            )
        )

    def answers(every: int) -> list[Entities]:
        found = []
        for number, row in enumerate(rows):
            spans = list(row.entities)
            if number % every == 0:
                spans = [spans[0]] if number % 2 else [Span(start=spans[0].start, end=spans[0].end, label="LOC"), spans[1]]
            entities = tuple(
                Entity(label=span.label, score=0.9, start=span.start, end=span.end, word=row.text[span.start : span.end])
                for span in spans
            )
            found.append(Entities(entities=entities, word_labels=(), word_scores=()))
        return found

    task: AnyTask = Ner(("O", "B-LOC", "I-LOC", "B-PER", "I-PER"), 32)
    return judge(task, rows, answers(29), answers(6))


def qa() -> Json:
    rows = []
    for number in range(300):
        filler = f"The courier of line {number} drives every day but Sunday. " * (8 if number % 2 else 1)
        context = f"{filler}Parcel {number} left Lisbon on Monday and lies in Porto now."
        rows.append(
            QaExample(
                question=f"Where is parcel {number} now?",
                context=context,
                answers=References(text=("Porto",), answer_start=(context.index("Porto"),)),
            )
        )

    def answers(every: int) -> list[Answers]:
        found = []
        for number, row in enumerate(rows):
            word = "Lisbon" if number % every == 0 else "Porto"
            start = row.context.index(word)
            found.append(Answers(answers=(Answer(answer=word, score=0.8, start=start, end=start + len(word)),)))
        return found

    task: AnyTask = QuestionAnswering((), 64)
    return judge(task, rows, answers(31), answers(5), cost=((60.0, 12.0), (60.0, 11.9)))


KINDS = (win, loss, too_large, few_rows, unsure, unchanged, unkept, first, many_labels, hostile, long_and_foreign)
CASES = {function.__name__: function for function in (*KINDS, multi_label, ner, qa)}
"""Every kind of report, by name."""
