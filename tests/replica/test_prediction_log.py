"""The prediction log of one replica: what is kept, what is masked, and what becomes of it while the database is away."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from baton.config.model_settings import ModelSettings
from baton.errors import RegistryError
from baton.store import database as store_database
from baton.store import schema
from baton.store.feedback.correction import Correction
from baton.store.feedback.predictions import PredictionStore
from baton.store.records import LoggedPrediction
from baton.store.registry import Registry
from baton.tasks import AnyTask, task_type
from baton.tasks.text_classifier import LabelScores, TextInput
from baton.text.masks import MASK, masker, same_but_for_masks
from services.log_sampling import ANSWER_ID, answer_sampled, new_answer_id, request_sampled
from services.replica import prediction_log
from services.replica.audit_draw import AuditDraw
from services.replica.prediction_log import PredictionLog
from tests.support.answers import recent
from tests.support.database import migrated_registry
from tests.support.replica import until

TASK = task_type("classification")(("a", "b"), 64)
ANSWER = LabelScores(labels=("a", "b"), scores=(0.9, 0.1))
ALL = 0.999999
"""A share of the audit that draws every text: 1 is not allowed."""


class Database(PredictionStore):
    """A real store whose database can be away for a while, or refuse what one request holds."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.predictions._engine)
        self.registry = registry
        self.away = False
        self.refused = ""
        self.refuses_copies = False
        self.tries = 0

    def log(self, predictions: Sequence[LoggedPrediction]) -> None:
        self.tries += 1
        if self.away:
            raise RegistryError("the registry's database does not answer")
        if self.refused in {prediction.request_id for prediction in predictions}:
            raise ValueError("no such thing can be stored")
        super().log(predictions)

    def log_shadow(self, predictions: Sequence[LoggedPrediction]) -> None:
        if self.away:
            raise RegistryError("the registry's database does not answer")
        if self.refuses_copies:
            raise ValueError("no such thing can be stored")
        super().log_shadow(predictions)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setattr(prediction_log, "FLUSH_SECONDS", 0.01)
    registry = migrated_registry(f"sqlite:///{tmp_path}/baton.db")
    registry.declare_model("m")
    return Database(registry)


def log_of(database: Database, task: AnyTask = TASK, **feedback: Any) -> PredictionLog:
    settings = ModelSettings.model_validate(
        {"name": "m", "task": task.name, "data": {"train": "train.jsonl"}, "feedback": {"audit": ALL, **feedback}}
    )
    draw = AuditDraw(settings, database.registry.audit)
    return PredictionLog("m", task, settings.feedback, database, draw)


@functools.cache
def answer_id(request_id: str) -> str:
    """Id of the answer to that request: here each request has one."""
    return new_answer_id(request_id)


def add(log: PredictionLog, request_id: str, *texts: str) -> None:
    inputs = [TextInput(text=text) for text in texts or ("hello",)]
    options, outputs = [TASK.Options()] * len(inputs), [ANSWER] * len(inputs)
    log.add(answer_id(request_id), 1, inputs=inputs, options=options, outputs=outputs, request_id=request_id)


def add_copy(log: PredictionLog, request_id: str, *texts: str) -> None:
    """What the shadow v2 answered to a copy of the request."""
    inputs = [TextInput(text=text) for text in texts or ("hello",)]
    log.add_copy(answer_id(request_id), 2, inputs, [TASK.Options()] * len(inputs), [ANSWER] * len(inputs))


def copies(database: Database) -> set[tuple[str, int]]:
    """Answer ids and positions of the shadow's answers."""
    table = schema.shadow_answers
    with store_database.reading(database._engine) as connection:
        query = sa.select(table.c.answer_id, table.c.position).where(table.c.version == 2)
        return {(row.answer_id, row.position) for row in connection.execute(query)}


def kept(database: Database) -> list[str]:
    """Request ids in the log, oldest first."""
    return [it.request_id for it in reversed(recent(database, "m", 1, 10_000))]


def audited(database: Database) -> list[str]:
    """Texts that the audit has drawn."""
    return [item.input["text"] for item in database.registry.audit.items("m")]


def running(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(main())


# --- what is kept --------------------------------------------------------------------------------------------------------


def test_a_sample_has_its_share_and_is_the_same_for_every_replica():
    names = [f"request-{number}" for number in range(20_000)]
    for share in (0.01, 0.2, 0.5, 0.99):
        own = {name for name in names if request_sampled(name, share)}
        assert len(own) == pytest.approx(share * len(names), abs=4 * (share * (1 - share) * len(names)) ** 0.5)
        assert own == {name for name in names if answer_sampled(new_answer_id(name), share)}
        assert own <= {name for name in names if request_sampled(name, min(1.0, share * 1.5))}
    assert all(request_sampled(name, 1.0) for name in names)
    assert not any(request_sampled(name, 0.0) for name in names)
    # a restart keeps the sample
    assert [number for number in range(12) if request_sampled(f"request-{number}", 0.5)] == [0, 2, 6, 7, 10, 11]


def test_answers_to_requests_of_one_id_have_ids_of_their_own():
    assert len({new_answer_id("trace-1") for _ in range(1000)}) == 1000
    assert all(ANSWER_ID.fullmatch(new_answer_id(name)) for name in ("", "trace-1", "\u00fc" * 500))


def test_every_input_of_a_request_is_kept_with_its_answer_in_brief(database):
    async def scenario() -> None:
        log = log_of(database)
        add(log, "r1", "hello", "good-bye")
        await log.close()

    running(scenario)
    first, second = sorted(recent(database), key=lambda it: it.position)
    assert (first.answer_id, first.request_id) == (answer_id("r1"), "r1")
    assert (first.version, first.label, first.confidence, first.length) == (1, "a", 0.9, 5)
    assert (first.input, second.input) == ({"text": "hello", "text_pair": None}, {"text": "good-bye", "text_pair": None})
    assert first.output == {"labels": ["a", "b"], "scores": [0.9, 0.1]}


def test_a_text_far_longer_than_the_model_reads_is_not_kept_unless_all_of_it_is_read(database):
    longest = "x" * prediction_log.LONGEST_TRUNCATED

    async def scenario() -> None:
        log = log_of(database)
        add(log, "r1", longest)
        add(log, "r2", longest + "x")
        add(log, "r3", longest + "x", "short")
        await log.close()
        reader = task_type("ner")(("O", "B-X", "I-X"), 64)
        log = log_of(database, reader)
        nothing = reader.Output(entities=(), word_labels=(), word_scores=())
        inputs, options = [reader.Input(text=longest + "x")], [reader.Options()]
        log.add(answer_id("r4"), 1, inputs=inputs, options=options, outputs=[nothing], request_id="r4")
        await log.close()

    running(scenario)
    assert {(it.request_id, it.position) for it in recent(database)} == {("r1", 0), ("r3", 1), ("r4", 0)}


def test_what_was_asked_for_in_a_form_that_hides_something_is_kept_without_its_answer(database):
    task = task_type("multi_label")(("a", "b"), 64)
    output = task.Output(labels=("a",), scores=(0.9,), assigned=(True,))

    async def scenario() -> None:
        log = log_of(database, task)
        log.add(answer_id("r1"), 1, inputs=[TextInput(text="hello")], options=[task.Options(top_k=1)], outputs=[output])
        await log.close()

    running(scenario)
    [found] = recent(database, "m", 1, 10)
    assert (found.input["text"], found.output, found.label) == ("hello", None, "a")


def test_nothing_is_kept_where_the_log_is_off(database):
    async def scenario() -> None:
        off = log_of(database, log=0.0)
        add(off, "r1")
        await off.close()

    running(scenario)
    assert recent(database) == []


def test_an_answer_is_kept_under_its_own_id_where_the_requests_id_cannot_be(database):
    async def scenario() -> None:
        log = log_of(database)
        for name in ("", "x" * 129, "x" * 128):
            add(log, name)
        await log.close()

    running(scenario)
    assert {(it.answer_id, it.request_id) for it in recent(database)} == {
        (answer_id(""), None),
        (answer_id("x" * 129), None),
        (answer_id("x" * 128), "x" * 128),
    }


def test_a_part_of_the_requests_is_kept_where_a_share_is_asked_for(database):
    names = [f"r{number}" for number in range(400)]

    async def scenario() -> None:
        log = log_of(database, log=0.25)
        for name in names:
            add(log, name)
        await log.close()

    running(scenario)
    assert sorted(kept(database)) == sorted(name for name in names if request_sampled(name, 0.25))


# --- when it is written --------------------------------------------------------------------------------------------------


def test_answers_are_written_soon_by_themselves_again_and_again(database):
    async def scenario() -> None:
        log = log_of(database)
        for name in ("r1", "r2", "r3"):
            add(log, name)

            async def there(name: str = name) -> bool:
                return name in kept(database)

            await until(there, f"{name} in the log")
        await log.close()

    running(scenario)


def test_while_the_database_is_away_answers_wait_and_are_written_later(database):
    async def scenario() -> None:
        database.away = True
        log = log_of(database)
        for number in range(3):
            add(log, f"r{number}")

        async def tried() -> bool:
            return database.tries >= 3

        await until(tried, "three tries to write")
        assert kept(database) == []
        add(log, "r3")
        database.away = False

        async def all_there() -> bool:
            return len(kept(database)) == 4

        await until(all_there, "all four answers in the log")
        assert log.dropped == 0
        await log.close()

    running(scenario)
    assert kept(database) == ["r0", "r1", "r2", "r3"]


def test_a_full_buffer_drops_the_oldest_and_counts_them(database, monkeypatch):
    monkeypatch.setattr(prediction_log, "MAX_PENDING_SIZE", 10 * (prediction_log.OUTPUT_SIZE + 5))

    async def scenario() -> None:
        database.away = True
        log = log_of(database)
        for number in range(8):
            add(log, f"r{number}")

        async def tried() -> bool:
            return database.tries >= 2

        await until(tried, "two tries to write")
        for number in range(8, 25):
            add(log, f"r{number}")
        add(log, "two inputs", "hello", "hello")

        async def full() -> bool:  # the answers of a write that fails meanwhile come back first
            return log.dropped == 17

        await until(full, "the oldest are dropped")
        database.away = False
        await log.close()

    running(scenario)
    assert sorted(set(kept(database))) == sorted([*(f"r{number}" for number in range(17, 25)), "two inputs"])


def test_one_answer_larger_than_the_buffer_is_dropped(database, monkeypatch):
    monkeypatch.setattr(prediction_log, "MAX_PENDING_SIZE", 30_000)

    async def scenario() -> None:
        log = log_of(database)
        add(log, "large", "x" * 40_000)
        add(log, "small")
        assert log.dropped == 1
        await log.close()

    running(scenario)
    assert kept(database) == ["small"]


def test_closing_writes_what_waits_and_what_the_database_refuses_then_is_lost(database, monkeypatch):
    monkeypatch.setattr(prediction_log, "FLUSH_SECONDS", 3600.0)

    async def scenario() -> None:
        log = log_of(database)
        for number in range(prediction_log.BATCH_REQUESTS + 1):
            add(log, f"r{number}")
        await log.close()
        assert len(kept(database)) == prediction_log.BATCH_REQUESTS + 1
        lost = log_of(database)
        add(lost, "late")
        database.away = True
        await lost.close()

    running(scenario)
    assert "late" not in kept(database)


def test_what_can_never_be_stored_is_dropped_and_keeps_no_other(database, monkeypatch):
    monkeypatch.setattr(prediction_log, "BATCH_REQUESTS", 1)
    database.refused = "poison"

    async def scenario() -> None:
        log = log_of(database)
        for name in ("r1", "poison", "r2"):
            add(log, name)
        await log.close()
        assert log.dropped == 1

    running(scenario)
    assert kept(database) == ["r1", "r2"]


# --- a shadow's answers --------------------------------------------------------------------------------------------------


def test_a_shadows_answers_are_kept_as_the_champions_are_and_beside_them(database):
    from baton.tasks.ner_entities import Entity

    task = task_type("ner")(("O", "B-PER", "I-PER"), 64)
    output = task.Output(
        entities=(Entity(label="PER", score=0.9, start=0, end=5, word="Clara"),), word_labels=("B-PER",), word_scores=(0.9,)
    )
    right = {"text": "Clara sings", "entities": []}

    async def scenario() -> None:
        log = log_of(database, task, redact=("Clara",))
        inputs, options = [task.Input(text="Clara sings")], [task.Options()]
        log.add(answer_id("r1"), 1, inputs=inputs, options=options, outputs=[output], request_id="r1")
        log.add_copy(answer_id("r1"), 2, inputs, options, [output])
        await log.close()

    running(scenario)
    database.registry.feedback.add("m", [Correction(client_id=None, request_id="r1", position=0, example=right)])
    [pair] = database.corrected_pairs("m", 1, 2, 10)
    assert pair.shadow_output == pair.answer.output
    assert "Clara" not in str(pair.shadow_output)
    assert [it.version for it in recent(database, "m", 1, 10) + recent(database, "m", 2, 10)] == [1]


def test_of_a_shadow_only_answers_are_kept_whose_requests_the_log_keeps(database):
    names = [f"r{number}" for number in range(40)]

    async def scenario() -> None:
        off, some = log_of(database, log=0.0), log_of(database, log=0.25)
        add_copy(off, "r0")
        for name in ("", "x" * 129, *names):
            add(some, name)
            add_copy(some, name)
        await off.close()
        await some.close()

    running(scenario)
    sample = [answer_id(name) for name in ("", "x" * 129, *names) if request_sampled(name, 0.25)]
    assert copies(database) == {(it.answer_id, 0) for it in recent(database)} == {(name, 0) for name in sample}


def test_a_shadows_answers_to_what_was_asked_for_in_a_form_that_hides_something_are_not_kept(database):
    task = task_type("multi_label")(("a", "b"), 64)
    output = task.Output(labels=("a",), scores=(0.9,), assigned=(True,))

    async def scenario() -> None:
        log = log_of(database, task)
        options = [task.Options(top_k=1), task.Options()]
        log.add_copy(answer_id("r1"), 2, [TextInput(text="hello")] * 2, options, [output] * 2)
        await log.close()

    running(scenario)
    assert copies(database) == {(answer_id("r1"), 1)}


def test_a_shadows_answers_are_written_soon_by_themselves_and_are_not_audited(database):
    async def scenario() -> None:
        log = log_of(database)
        for number in range(3):
            add_copy(log, f"r{number}")

            async def there(number: int = number) -> bool:
                return (answer_id(f"r{number}"), 0) in copies(database)

            await until(there, f"r{number} among the shadow's answers")
        await log.close()

    running(scenario)
    assert audited(database) == []


def test_a_full_buffer_drops_a_shadows_answers_first_the_oldest_of_them_before_the_others(database, monkeypatch):
    monkeypatch.setattr(prediction_log, "MAX_PENDING_SIZE", 10 * (prediction_log.OUTPUT_SIZE + 5))
    monkeypatch.setattr(prediction_log, "FLUSH_SECONDS", 3600.0)

    async def scenario() -> None:
        log = log_of(database)
        for number in range(6):
            add(log, f"r{number}")
            add_copy(log, f"r{number}")
        assert (log.dropped, log.dropped_copies) == (0, 2)
        for number in range(6, 8):
            add(log, f"r{number}")
        await log.close()
        assert (log.dropped, log.dropped_copies) == (0, 4)

    running(scenario)
    assert kept(database) == [f"r{number}" for number in range(8)]
    assert copies(database) == {(answer_id("r4"), 0), (answer_id("r5"), 0)}


def test_while_the_database_is_away_a_shadows_answers_make_room_for_the_champions(database, monkeypatch):
    monkeypatch.setattr(prediction_log, "MAX_PENDING_SIZE", 10 * (prediction_log.OUTPUT_SIZE + 5))

    async def scenario() -> None:
        database.away = True
        log = log_of(database)
        for number in range(4):
            add_copy(log, f"r{number}")

        async def tried() -> bool:
            return database.tries >= 2

        add(log, "r0")
        await until(tried, "two tries to write")
        for number in range(1, 9):
            add(log, f"r{number}")

        async def full() -> bool:  # the answers of a write that fails meanwhile come back first
            return log.dropped_copies == 3

        await until(full, "the oldest copies are dropped")
        assert log.dropped == 0
        database.away = False
        await log.close()

    running(scenario)
    assert (len(kept(database)), copies(database)) == (9, {(answer_id("r3"), 0)})


def test_a_shadows_answers_that_can_never_be_stored_cost_no_other(database):
    database.refuses_copies = True

    async def scenario() -> None:
        log = log_of(database)
        add_copy(log, "r0")
        add(log, "r1")
        await log.close()
        assert (log.dropped, log.dropped_copies) == (0, 1)

    running(scenario)
    assert (kept(database), copies(database)) == (["r1"], set())


# --- what the audit draws ------------------------------------------------------------------------------------------------


def test_the_audit_draws_from_the_logged_inputs_and_from_no_others(database):
    async def scenario() -> None:
        on, off = log_of(database, redact=(r"\d+",)), log_of(database, log=0.0)
        add(on, "r1", "hello", "good-bye", "card 1234")
        add(on, "r2", "hello")
        add(off, "r3", "not logged")
        await on.close()
        await off.close()

    running(scenario)
    assert audited(database) == ["hello", "good-bye"]


def test_an_answer_that_is_logged_late_is_drawn_once(database):
    async def scenario() -> None:
        database.away = True
        log = log_of(database)
        add(log, "r1")

        async def tried() -> bool:
            return database.tries >= 2

        await until(tried, "two tries to write")
        database.away = False
        await log.close()

    running(scenario)
    assert (kept(database), audited(database)) == (["r1"], ["hello"])


def test_a_draw_that_fails_is_made_up_for_and_logs_no_answer_twice(database, monkeypatch):
    draw, failures = database.registry.audit.draw, 2

    def fails(*arguments: Any) -> int:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise RegistryError("the registry's database does not answer")
        return draw(*arguments)

    monkeypatch.setattr(database.registry.audit, "draw", fails)

    async def scenario() -> None:
        log = log_of(database)
        add(log, "r1")

        async def there() -> bool:
            return audited(database) == ["hello"]

        await until(there, "the text in the audit")
        assert log.dropped == 0
        await log.close()

    running(scenario)
    assert kept(database) == ["r1"]


# --- what is masked ------------------------------------------------------------------------------------------------------


def test_masks_keep_every_character_in_its_place():
    mask = masker([r"\b\d{4}\b", r"\S+@\S+"])
    masked = mask(TextInput(text="card 1234 of ann@example.org, ok?", text_pair="12345 or 6789"))
    assert masked.text == f"card {MASK * 4} of {MASK * 16} ok?"
    assert masked.text_pair == f"12345 or {MASK * 4}"


def test_patterns_see_the_text_as_it_was_sent_and_may_overlap_or_repeat_a_group():
    masked = masker([r"\d+", r"id \d+ x", r"(?i)anna", r"(.)\1\1"])(TextInput(text="id 42 x, ANNA, zzz"))
    assert masked.text == f"{MASK * 7}, {MASK * 4}, {MASK * 3}"


def test_a_text_without_a_match_and_a_log_without_patterns_change_nothing():
    item = TextInput(text="hello")
    assert masker([])(item) is item
    assert masker(["x+"])(item) == item


def test_a_masked_text_is_known_again_and_told_from_others_of_its_length():
    item = TextInput(text="ann@example.org asks", text_pair="why")
    masked = masker([r"\S+@\S+"])(item).model_dump(mode="json")
    assert same_but_for_masks(masked, item)
    assert same_but_for_masks(masked, TextInput(text="bob@example.org asks", text_pair="why"))  # nobody can tell
    assert not same_but_for_masks(masked, TextInput(text="ann@example.org says", text_pair="why"))
    assert not same_but_for_masks(masked, TextInput(text="ann@example.org asks me", text_pair="why"))
    assert not same_but_for_masks(masked, TextInput(text="ann@example.org asks"))
    assert not same_but_for_masks(TextInput(text="ann").model_dump(), TextInput(text=MASK * 3))


def test_words_of_entities_are_masked_too(database):
    from baton.tasks.ner_entities import Entity

    task = task_type("ner")(("O", "B-PER", "I-PER"), 64)
    output = task.Output(
        entities=(Entity(label="PER", score=0.9, start=0, end=5, word="Clara"),), word_labels=("B-PER",), word_scores=(0.9,)
    )

    async def scenario() -> None:
        log = log_of(database, task, redact=("Clara",))
        log.add(answer_id("r1"), 1, inputs=[task.Input(text="Clara sings")], options=[task.Options()], outputs=[output])
        await log.close()

    running(scenario)
    [found] = recent(database, "m", 1, 10)
    assert found.input == {"text": f"{MASK * 5} sings"}
    assert [(it["word"], it["start"], it["end"]) for it in found.output["entities"]] == [(MASK * 5, 0, 5)]
    assert "Clara" not in str(found)
    assert (found.label, found.length) == ("PER", 11)


def test_what_a_model_wrote_is_masked_too(database):
    task = task_type("seq2seq")((), 64)

    async def scenario() -> None:
        log = log_of(database, task, redact=("Clara",))
        log.add(
            answer_id("r1"),
            1,
            inputs=[task.Input(source="Clara sings")],
            options=[task.Options()],
            outputs=[task.Output(text="Canta Clara")],
        )
        await log.close()

    running(scenario)
    [found] = recent(database, "m", 1, 10)
    assert (found.input, found.output) == ({"source": f"{MASK * 5} sings"}, {"text": f"Canta {MASK * 5}"})
    assert (found.label, found.confidence) == ("text", None)


def test_answers_to_questions_are_masked_too(database):
    from baton.tasks.qa import Answer

    task = task_type("qa")((), 64)
    best = Answer(answer="Clara", score=0.9, start=0, end=5)
    item = task.Input(question="Is it Clara?", context="Clara sings")

    async def scenario() -> None:
        log = log_of(database, task, redact=("Clara",))
        output = task.Output(answers=(best,), best=best, margin=1.0)
        log.add(answer_id("r1"), 1, inputs=[item], options=[task.Options()], outputs=[output])
        await log.close()

    running(scenario)
    [found] = recent(database, "m", 1, 10)
    assert found.input == {"question": f"Is it {MASK * 5}?", "context": f"{MASK * 5} sings"}
    assert found.output["answers"][0]["answer"] == MASK * 5
    assert "Clara" not in str(found)
