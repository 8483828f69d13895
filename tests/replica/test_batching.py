"""The batcher: at once when idle, together when busy, and one version a batch whatever happens in between."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.errors import NotReady, Overloaded
from services.replica import batching
from services.replica.batching import Batcher, Prediction

PATIENCE = 30.0


class Echo:
    """A predictor that answers (its name, input, option), and notes what it was given."""

    overhead_tokens = 500

    def __init__(self, name: str = "v1") -> None:
        self.name = name
        self.batches: list[list[Any]] = []
        self._noted = threading.Semaphore(0)

    def _note(self, batch: list[Any]) -> None:
        self.batches.append(batch)
        self._noted.release()

    async def has_run(self, count: int) -> None:
        """Until ``count`` batches or steps have begun; to be called once."""
        for _ in range(count):
            assert await asyncio.to_thread(self._noted.acquire, timeout=PATIENCE)

    def predict(self, inputs: Sequence[Any], options: Sequence[Any] | None = None, *_: Any) -> list[Any]:
        self._note(list(inputs))
        assert options is not None
        for item in inputs:
            if isinstance(item, Exception):
                raise item
        return [(self.name, item, option) for item, option in zip(inputs, options, strict=True)]

    def steps(
        self, inputs: Sequence[Any], options: Sequence[Any] | None = None, budget: int | None = None, *_: Any
    ) -> Iterator[list[Any] | None]:
        """One step for each ``budget`` characters, noted among the batches as a string of them."""
        assert budget is not None
        yield None
        for item in inputs:
            for start in range(0, len(item), budget):
                self._note([f"{item[start : start + budget]}…"])
                yield None
        yield self.predict(inputs, options)


class Held(Echo):
    """An `Echo` whose predictions wait until they are released."""

    def __init__(self, name: str = "v1") -> None:
        super().__init__(name)
        self.started = threading.Event()
        self.released = threading.Event()

    def predict(self, inputs: Sequence[Any], options: Sequence[Any] | None = None, *_: Any) -> list[Any]:
        self.started.set()
        assert self.released.wait(PATIENCE)
        return super().predict(inputs, options)

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.wait, PATIENCE)


class Paused(Held):
    """Its long requests, too, wait once after their first step."""

    def __init__(self, name: str = "v1") -> None:
        super().__init__(name)
        self.resumed = threading.Event()

    def steps(
        self, inputs: Sequence[Any], options: Sequence[Any] | None = None, budget: int | None = None, *_: Any
    ) -> Iterator[list[Any] | None]:
        steps = super().steps(inputs, options, budget)
        yield next(steps)
        yield next(steps)
        assert self.resumed.wait(PATIENCE)
        yield from steps


def batcher(budget: int = 1000, queue: int = 1000, queue_ms: float = math.inf) -> Batcher:
    return Batcher(
        max_batch_tokens=budget,
        max_queue=queue,
        max_queue_ms=queue_ms,
        estimate=lambda item: min(len(item), 2000) if isinstance(item, str) else 1,
        characters=lambda item: len(item) if isinstance(item, str) else 1,
    )


async def submitted(subject: Batcher, *inputs: Any, options: Sequence[Any] | None = None) -> asyncio.Task[Prediction]:
    """A request of these inputs that has reached the batcher."""
    task = asyncio.create_task(subject.submit(inputs, options or ["-"] * len(inputs)))
    await asyncio.sleep(0)  # one turn of the event loop
    return task


async def occupied(subject: Batcher, predictor: Held) -> asyncio.Task[Prediction]:
    """A request that runs, held, so that whatever comes next has to wait."""
    task = await submitted(subject, "first")
    await predictor.has_started()
    return task


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


# --- batches -------------------------------------------------------------------------------------------------------------


def test_a_request_to_an_idle_batcher_runs_at_once_and_alone():
    async def scenario() -> None:
        subject, predictor = batcher(), Echo()
        subject.serve(1, predictor)
        for text in ("a", "b"):
            answer = await subject.submit([text], ["-"])
            assert answer.outputs == [("v1", text, "-")]
            assert answer.version == 1
            assert answer.queue_ms >= 0
            assert answer.inference_ms > 0
        assert predictor.batches == [["a"], ["b"]]
        await subject.close()

    run(scenario)


def test_everything_that_waits_while_a_batch_runs_is_the_next_batch():
    async def scenario() -> None:
        subject, predictor = batcher(), Held()
        subject.serve(1, predictor)
        tasks = [await occupied(subject, predictor)]
        tasks += [await submitted(subject, text) for text in "abcde"]
        predictor.released.set()
        answers = await asyncio.gather(*tasks)
        assert predictor.batches == [["first"], ["a", "b", "c", "d", "e"]]
        assert [answer.outputs[0][1] for answer in answers] == ["first", "a", "b", "c", "d", "e"]
        await subject.close()

    run(scenario)


def test_a_batch_is_cut_at_the_token_budget_and_never_within_a_request():
    async def scenario() -> None:
        subject, predictor = batcher(budget=40), Held()
        subject.serve(1, predictor)
        tasks = [await occupied(subject, predictor)]
        texts = [letter * 5 for letter in "abcdefgh"]
        tasks += [await submitted(subject, text) for text in texts]
        tasks += [await submitted(subject, *"ijkl"), await submitted(subject, "m" * 5)]
        predictor.released.set()
        await asyncio.gather(*tasks)
        assert predictor.batches[1:] == [texts, [*"ijkl", "m" * 5]]
        await subject.close()

    run(scenario)


# --- long requests -------------------------------------------------------------------------------------------------------


def test_short_requests_have_their_turn_between_the_steps_of_a_long_one():
    async def scenario() -> None:
        subject, predictor = batcher(budget=40), Held()
        subject.serve(1, predictor)
        running = await occupied(subject, predictor)
        long = await submitted(subject, "x" * 12)
        short = [await submitted(subject, "a")]
        predictor.released.set()
        await running
        answered = []
        for text in "bcd":
            answered.append((await short[-1]).outputs[0][1])
            short.append(await submitted(subject, text))
        answer = await long
        assert answer.outputs == [("v1", "x" * 12, "-")]
        assert answer.inference_ms > 0
        assert answer.queue_ms >= 0
        batches = predictor.batches[1:]
        assert [batch for batch in batches if batch[0].startswith("x")] == [["xxxxx…"], ["xxxxx…"], ["xx…"], ["x" * 12]]
        assert batches.index(["a"]) < batches.index(["b"]) < batches.index(["x" * 12])
        await asyncio.gather(*short)
        await subject.close()

    run(scenario)


def test_long_requests_run_one_after_the_other_and_each_on_one_version():
    async def scenario() -> None:
        subject, old, new = batcher(budget=40), Paused("old"), Echo("new")
        subject.serve(1, old)
        running = await occupied(subject, old)
        first, second = [await submitted(subject, letter * 20) for letter in "xy"]
        old.released.set()
        await old.has_run(2)
        subject.serve(2, new)
        old.resumed.set()
        answers = await asyncio.gather(running, first, second)
        assert [answer.version for answer in answers] == [1, 1, 2]
        assert [answer.outputs[0][0] for answer in answers] == ["old", "old", "new"]
        assert [batch[0][0] for batch in new.batches] == ["y"] * 5
        await subject.close()

    run(scenario)


def test_a_text_of_many_characters_is_a_long_request_although_the_model_reads_few_of_them():
    async def scenario() -> None:
        subject, predictor = batcher(budget=16_000), Held()
        subject.serve(1, predictor)
        running = await occupied(subject, predictor)
        text = "x" * (batching.LONG_REQUEST_CHARACTERS + 1)
        waiting = [await submitted(subject, it) for it in (text[1:], text, "a")]
        predictor.released.set()
        await asyncio.gather(running, *waiting)
        assert predictor.batches[1] == [text[1:], "a"]
        assert predictor.batches[2][0].endswith("…"), "in steps, one after the other"
        await subject.close()

    run(scenario)


def test_a_batch_is_no_larger_than_makes_it_cheaper():
    async def scenario() -> None:
        subject, predictor = batcher(), Held()
        predictor.overhead_tokens = 1
        subject.serve(1, predictor)
        running = await occupied(subject, predictor)
        texts = ["a" * 10, "b" * 10, "c" * 10, "d" * 30, "e"]
        waiting = [await submitted(subject, text) for text in texts]
        predictor.released.set()
        await asyncio.gather(running, *waiting)
        assert predictor.batches[1:] == [texts[:2], [texts[2], texts[4]], [texts[3]]]
        await subject.close()

    run(scenario)


class SlowTokenizer(Echo):
    """An `Echo` whose long requests wait while they are tokenized."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenized = threading.Event()

    def steps(
        self, inputs: Sequence[Any], options: Sequence[Any] | None = None, budget: int | None = None, *_: Any
    ) -> Iterator[list[Any] | None]:
        assert self.tokenized.wait(PATIENCE)
        yield from super().steps(inputs, options, budget)


def test_short_requests_are_answered_while_a_long_one_is_tokenized():
    async def scenario() -> None:
        subject, predictor = batcher(budget=40), SlowTokenizer()
        subject.serve(1, predictor)
        long = await submitted(subject, "x" * 12)
        for text in "abc":
            assert (await subject.submit([text], ["-"])).outputs == [("v1", text, "-")]
        assert not long.done()
        predictor.tokenized.set()
        assert (await long).outputs == [("v1", "x" * 12, "-")]
        await subject.close()

    run(scenario)


def test_an_error_while_a_long_request_is_tokenized_is_its_own():
    async def scenario() -> None:
        class Broken(Echo):
            def steps(self, *_: Any) -> Iterator[Any]:
                raise ValueError("no such token")
                yield

        subject = batcher(budget=40)
        subject.serve(1, Broken())
        long = await submitted(subject, "x" * 12)
        assert (await subject.submit(["a"], ["-"])).outputs == [("v1", "a", "-")]
        with pytest.raises(ValueError, match="no such token"):
            await long
        await subject.close()

    run(scenario)


class Clocked(Held):
    """Each batch takes 100 ms for each character, and to start as long as for ``overhead_tokens``, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, overhead_tokens: int = 1) -> None:
        super().__init__()
        self.now, self.overhead_tokens = 0.0, overhead_tokens
        monkeypatch.setattr(batching.time, "perf_counter", lambda: self.now)

    def predict(self, inputs: Sequence[Any], options: Sequence[Any] | None = None, *_: Any) -> list[Any]:
        outputs = super().predict(inputs, options)
        self.now += 0.1 * (self.overhead_tokens + sum(map(len, inputs)))
        return outputs


def test_a_request_that_would_wait_too_long_is_told_so_at_once_and_when_to_try_again(monkeypatch):
    async def scenario() -> None:
        subject, predictor = batcher(queue_ms=1000), Clocked(monkeypatch)
        subject.serve(1, predictor)
        predictor.released.set()
        await subject.submit(["ab"], ["-"])
        predictor.released.clear()
        predictor.started.clear()
        running = await occupied(subject, predictor)
        waiting = [await submitted(subject, "x" * 10), await submitted(subject, "y" * 5)]
        refused = await submitted(subject, "z")
        with pytest.raises(Overloaded, match=r"about 1,600 ms; at most 1000 are allowed \(serving\.max_queue_ms\)") as told:
            await refused
        assert told.value.retry_after == 2
        patient = await submitted(subject, "w" * 7)  # it takes 700 ms itself, and so may wait as much longer
        predictor.released.set()
        await asyncio.gather(running, *waiting, patient)
        assert (await subject.submit(["z"], ["-"])).outputs == [("v1", "z", "-")]
        await subject.close()

    run(scenario)


async def filled(subject: Batcher) -> tuple[list[asyncio.Task[Prediction]], str]:
    """Requests of two tokens until one is refused; those that wait, and what that one was told."""
    waiting = [await submitted(subject, "ab")]
    while not waiting[-1].done():
        waiting.append(await submitted(subject, "ab"))
    with pytest.raises(Overloaded) as told:
        await waiting.pop()
    return waiting, str(told.value)


async def held(subject: Batcher, predictor: Held) -> asyncio.Task[Prediction]:
    """As `occupied`, after other batches have run."""
    predictor.released.clear()
    predictor.started.clear()
    return await occupied(subject, predictor)


OVERLOAD_MS = 32_000
"""A batch of `Clocked` with 16 tokens takes 1,700 ms: during an overload a queue of so many may take 2,000."""


def test_after_a_refusal_the_queue_is_kept_short_until_nothing_was_refused_for_a_while(monkeypatch):
    async def scenario() -> None:
        subject, predictor = batcher(budget=16, queue_ms=OVERLOAD_MS), Clocked(monkeypatch)
        subject.serve(1, predictor)
        predictor.released.set()
        await subject.submit(["ab"], ["-"])
        assert subject.room is None
        running = await held(subject, predictor)
        burst, told = await filled(subject)
        assert len(burst) == 152
        assert "about 32,300 ms; at most 32000 are allowed (serving.max_queue_ms)" in told
        assert subject.room == 0
        predictor.released.set()
        await asyncio.gather(running, *burst)
        predictor.now -= 30  # the queue was emptied that fast
        assert subject.room == 9, "nobody waits, but the overload may go on"
        running = await held(subject, predictor)
        waiting, told = await filled(subject)
        assert len(waiting) == 11
        assert "about 2,400 ms; at most 2000 are allowed during an overload, otherwise 32000" in told
        predictor.now += OVERLOAD_MS / 1000
        more, _ = await filled(subject)
        assert len(waiting + more) == 152
        predictor.released.set()
        await asyncio.gather(running, *waiting, *more)
        await subject.close()

    run(scenario)


def test_an_overload_that_does_not_end_is_given_the_whole_queue_again_after_a_minute(monkeypatch):
    async def scenario() -> None:
        subject, predictor = batcher(budget=16, queue_ms=OVERLOAD_MS), Clocked(monkeypatch)
        subject.serve(1, predictor)
        predictor.released.set()
        await subject.submit(["ab"], ["-"])
        running = await held(subject, predictor)
        burst, _ = await filled(subject)
        predictor.released.set()
        await asyncio.gather(running, *burst)
        predictor.now -= 30
        running = await held(subject, predictor)
        waiting: list[asyncio.Task[Prediction]] = []
        for _ in range(5):
            more, told = await filled(subject)
            waiting += more
            assert "during an overload" in told
            predictor.now += 10
            subject.note_refusals()
        predictor.now += 10
        subject.note_refusals()  # of before
        more, told = await filled(subject)
        assert (len(waiting + more), "during an overload" in told) == (152, False)
        predictor.released.set()
        await asyncio.gather(running, *waiting, *more)
        await subject.close()

    run(scenario)


def test_a_burst_after_single_requests_is_not_refused_for_what_it_costs_to_start_each_of_them(monkeypatch):
    async def scenario() -> None:
        subject, predictor = batcher(queue_ms=15_000), Clocked(monkeypatch, overhead_tokens=100)
        subject.serve(1, predictor)
        predictor.released.set()
        for _ in range(20):
            await subject.submit(["a"], ["-"])  # ten seconds each, and one more
        predictor.released.clear()
        predictor.started.clear()
        running = await occupied(subject, predictor)
        burst = [await submitted(subject, "b") for _ in range(40)]  # 14 seconds together
        predictor.released.set()
        answers = await asyncio.gather(running, *burst)
        assert len(answers) == 41
        await subject.close()

    run(scenario)


class Writer(Echo):
    """Writes until it is told that nobody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.ended = threading.Event(), threading.Event()

    def predict(
        self, inputs: Sequence[Any], options: Sequence[Any] | None = None, abandoned: Callable[[], bool] = lambda: True
    ) -> list[Any]:
        if inputs[0].startswith("x"):
            self.started.set()
            while not abandoned():
                threading.Event().wait(0.001)
            self.ended.set()
        return super().predict(inputs, options)

    def steps(
        self,
        inputs: Sequence[Any],
        options: Sequence[Any] | None = None,
        budget: int | None = None,
        abandoned: Callable[[], bool] = lambda: True,
    ) -> Iterator[list[Any] | None]:
        yield None
        yield self.predict(inputs, options, abandoned)


@pytest.mark.parametrize("length", [1, 200], ids=["short", "long"])
def test_a_model_that_writes_is_told_when_all_clients_of_its_batch_are_gone_and_not_before(length):
    async def scenario() -> None:
        subject, predictor = batcher(), Writer()
        subject.serve(1, predictor)
        gone = await submitted(subject, "x" * length)
        assert await asyncio.to_thread(predictor.started.wait, PATIENCE)
        waiting = await submitted(subject, "a")
        assert not predictor.ended.is_set()
        gone.cancel()
        assert await asyncio.to_thread(predictor.ended.wait, PATIENCE)
        assert (await waiting).outputs == [("v1", "a", "-")]
        await subject.close()

    run(scenario)


def test_a_batch_goes_on_while_one_of_its_clients_waits():
    async def scenario() -> None:
        asked: list[bool] = []

        class Asking(Held):
            def predict(
                self, inputs: Sequence[Any], options: Sequence[Any] | None = None, abandoned: Callable[[], bool] = lambda: True
            ) -> list[Any]:
                outputs = super().predict(inputs, options)
                asked.append(abandoned())
                return outputs

        subject, predictor = batcher(), Asking()
        subject.serve(1, predictor)
        running = await occupied(subject, predictor)
        one, other = await submitted(subject, "a"), await submitted(subject, "b")
        predictor.started.clear()
        predictor.released.set()
        await running
        predictor.released.clear()
        await predictor.has_started()
        one.cancel()
        await asyncio.sleep(0)  # one turn of the event loop
        predictor.released.set()
        assert (await other).outputs == [("v1", "b", "-")]
        assert asked == [False, False]
        await subject.close()

    run(scenario)


def test_a_panic_of_a_library_is_an_error_of_its_request_and_the_next_one_is_answered():
    async def scenario() -> None:
        class Panic(BaseException):
            pass

        class Panicking(Echo):
            def predict(self, inputs: Sequence[Any], options: Sequence[Any] | None = None, *_: Any) -> list[Any]:
                if inputs == ["bad"]:
                    raise Panic("index out of range")
                return super().predict(inputs, options)

        subject = batcher()
        subject.serve(1, Panicking())
        with pytest.raises(RuntimeError, match="Panic: index out of range"):
            await subject.submit(["bad"], ["-"])
        assert (await subject.submit(["good"], ["-"])).outputs == [("v1", "good", "-")]
        await subject.close()

    run(scenario)


def test_a_long_request_whose_caller_goes_while_it_is_tokenized_costs_no_pass_and_closing_waits_for_it():
    async def scenario() -> None:
        subject, predictor = batcher(budget=40), SlowTokenizer()
        subject.serve(1, predictor)
        gone, next_one = [await submitted(subject, letter * 12) for letter in "xy"]
        await asyncio.sleep(0)
        gone.cancel()
        predictor.tokenized.set()
        assert (await next_one).outputs == [("v1", "y" * 12, "-")]
        assert not [batch for batch in predictor.batches if batch[0].startswith("x")]
        last = await submitted(subject, "z" * 12)
        await asyncio.sleep(0)
        await subject.close()
        assert (await last).outputs == [("v1", "z" * 12, "-")]

    run(scenario)


def test_long_requests_that_wait_do_not_keep_short_ones_out(monkeypatch):
    async def scenario() -> None:
        subject, predictor = batcher(budget=40, queue=3, queue_ms=1000), Clocked(monkeypatch)
        subject.serve(1, predictor)
        predictor.released.set()
        await subject.submit(["ab"], ["-"])
        predictor.released.clear()
        predictor.started.clear()
        running = await occupied(subject, predictor)
        long = [await submitted(subject, letter * 20) for letter in "xyz"]
        with pytest.raises(Overloaded):
            await (await submitted(subject, "v" * 20))
        short = await submitted(subject, "a")
        predictor.released.set()
        answers = await asyncio.gather(running, *long, short, return_exceptions=True)
        assert [answer.outputs[0][1][0] for answer in answers if isinstance(answer, Prediction)][-1] == "a"
        assert sum(isinstance(answer, Overloaded) for answer in answers) <= 1
        await subject.close()

    run(scenario)


def test_a_long_request_whose_caller_gave_up_costs_no_further_step():
    async def scenario() -> None:
        subject, predictor = batcher(budget=40), Paused()
        subject.serve(1, predictor)
        running = await occupied(subject, predictor)
        long, next_one = await submitted(subject, "x" * 500), await submitted(subject, "y" * 500)
        predictor.released.set()
        await predictor.has_run(2)
        for task in (long, next_one):
            task.cancel()
        await asyncio.wait([long, next_one])
        predictor.resumed.set()
        await running
        assert (await subject.submit(["a"], ["-"])).outputs == [("v1", "a", "-")]
        assert len(predictor.batches) <= 4  # the step that ran when it was given up is the second of x
        assert not any(batch[0].startswith("y") for batch in predictor.batches)
        await subject.close()

    run(scenario)


def test_a_long_request_that_fails_gets_its_error_and_the_next_one_is_answered():
    class Fails(Echo):
        def predict(self, inputs: Sequence[Any], options: Sequence[Any] | None = None, *_: Any) -> list[Any]:
            if inputs[0].startswith("x"):
                raise ValueError("no")
            return super().predict(inputs, options)

    async def scenario() -> None:
        subject = batcher(budget=40)
        subject.serve(1, Fails())
        long, other = await submitted(subject, "x" * 20), await submitted(subject, "y" * 20)
        with pytest.raises(ValueError, match="no"):
            await long
        assert (await other).outputs == [("v1", "y" * 20, "-")]
        await subject.close()

    run(scenario)


def test_closing_finishes_the_long_request_that_has_begun():
    async def scenario() -> None:
        subject, predictor = batcher(budget=40), Paused()
        subject.serve(1, predictor)
        running = await occupied(subject, predictor)
        first, second = [await submitted(subject, letter * 20) for letter in "xy"]
        predictor.released.set()
        await predictor.has_run(2)
        closing = asyncio.create_task(subject.close())
        await asyncio.sleep(0)  # it has begun to close
        predictor.resumed.set()
        with pytest.raises(NotReady, match="the replica is shutting down"):
            await second
        assert (await first).outputs == [("v1", "x" * 20, "-")]
        await asyncio.gather(running, closing)

    run(scenario)


@settings(max_examples=60)
@given(
    requests=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=20), budget=st.integers(1, 40)
)
def test_each_request_gets_its_own_outputs_in_its_own_order(requests, budget):
    async def scenario() -> None:
        subject, predictor = batcher(budget), Held()
        subject.serve(1, predictor)
        tasks = [await occupied(subject, predictor)]
        named = [[f"{row}.{place}".ljust(size) for place, size in enumerate(sizes)] for row, sizes in enumerate(requests)]
        tasks += [await submitted(subject, *texts, options=[f"option {text}" for text in texts]) for texts in named]
        predictor.released.set()
        _, *answers = await asyncio.gather(*tasks)
        for texts, answer in zip(named, answers, strict=True):
            assert answer.outputs == [("v1", text, f"option {text}") for text in texts]
        for batch in predictor.batches:
            assert batch == ["first"] or sum(map(len, batch)) <= budget or batch in named or batch[0].endswith("…")
        await subject.close()

    run(scenario)


# --- callers that give up ------------------------------------------------------------------------------------------------


def test_a_request_whose_caller_gave_up_is_never_predicted():
    async def scenario() -> None:
        subject, predictor = batcher(), Held()
        subject.serve(1, predictor)
        tasks = [await occupied(subject, predictor)]
        tasks += [await submitted(subject, text) for text in "abc"]
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        predictor.released.set()
        await asyncio.gather(tasks[0], tasks[1], tasks[3])
        assert predictor.batches == [["first"], ["a", "c"]]
        await subject.close()

    run(scenario)


def test_a_caller_who_gives_up_while_its_batch_runs_harms_nobody():
    async def scenario() -> None:
        subject, predictor = batcher(), Held()
        subject.serve(1, predictor)
        running = await occupied(subject, predictor)
        waiting = await submitted(subject, "a")
        running.cancel()
        await asyncio.wait([running])
        predictor.released.set()
        assert (await waiting).outputs == [("v1", "a", "-")]
        await subject.close()

    run(scenario)


def test_requests_that_were_given_up_make_room_in_the_queue():
    async def scenario() -> None:
        subject, predictor = batcher(queue=2), Held()
        subject.serve(1, predictor)
        running = await occupied(subject, predictor)
        given_up = [await submitted(subject, text) for text in "ab"]
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        waiting = [await submitted(subject, text) for text in "cd"]
        predictor.released.set()
        await asyncio.gather(running, *waiting)
        assert predictor.batches == [["first"], ["c", "d"]]
        await subject.close()

    run(scenario)


# --- refusals ------------------------------------------------------------------------------------------------------------


def test_a_full_queue_is_refused_at_once_and_taken_again_once_there_is_room():
    async def scenario() -> None:
        subject, predictor = batcher(queue=2), Held()
        subject.serve(1, predictor)
        tasks = [await occupied(subject, predictor)]
        tasks += [await submitted(subject, text) for text in "ab"]
        with pytest.raises(
            Overloaded, match=r"2 requests are waiting, the maximum of this replica \(serving.max_queue\); try again"
        ) as caught:
            await subject.submit(["c"], ["-"])
        assert (caught.value.status, caught.value.retry_after) == (429, 1)
        predictor.released.set()
        await asyncio.gather(*tasks)
        assert (await subject.submit(["c"], ["-"])).outputs == [("v1", "c", "-")]
        assert ["c"] in predictor.batches
        await subject.close()

    run(scenario)


def test_without_a_version_nothing_is_queued():
    async def scenario() -> None:
        subject = batcher()
        with pytest.raises(NotReady, match="no version is loaded yet"):
            await subject.submit(["a"], ["-"])
        assert subject.version is None
        subject.serve(4, Echo())
        assert subject.version == 4
        assert (await subject.submit(["a"], ["-"])).version == 4
        await subject.close()

    run(scenario)


# --- failures ------------------------------------------------------------------------------------------------------------


def test_one_request_that_fails_gets_its_own_error_and_its_neighbours_their_answers():
    async def scenario() -> None:
        subject, predictor = batcher(), Held()
        subject.serve(1, predictor)
        running = await occupied(subject, predictor)
        culprits = [ValueError("first culprit"), KeyError("second culprit")]
        tasks = [await submitted(subject, item) for item in ("a", culprits[0], "b", culprits[1], "c")]
        predictor.released.set()
        results = await asyncio.gather(running, *tasks, return_exceptions=True)
        assert [results[2], results[4]] == culprits
        assert [results[place].outputs for place in (1, 3, 5)] == [[("v1", text, "-")] for text in "abc"]
        await subject.close()

    run(scenario)


def test_a_request_that_fails_alone_is_run_once_and_the_next_one_is_answered():
    async def scenario() -> None:
        subject, predictor = batcher(), Echo()
        subject.serve(1, predictor)
        culprit = ValueError("bad")
        with pytest.raises(ValueError, match="bad"):
            await subject.submit([culprit], ["-"])
        assert predictor.batches == [[culprit]]
        assert (await subject.submit(["a"], ["-"])).outputs == [("v1", "a", "-")]
        await subject.close()

    run(scenario)


# --- hand-over -----------------------------------------------------------------------------------------------------------


def test_a_swap_lets_the_running_batch_finish_on_the_old_version_and_gives_the_rest_to_the_new_one():
    async def scenario() -> None:
        subject, old, new = batcher(), Held("old"), Echo("new")
        subject.serve(1, old)
        running = await occupied(subject, old)
        waited = [await submitted(subject, text) for text in "ab"]
        subject.serve(2, new)
        assert subject.version == 2
        later = [await submitted(subject, text) for text in "cd"]
        old.released.set()
        first = await running
        assert (first.version, first.outputs) == (1, [("old", "first", "-")])
        for text, answer in zip("abcd", await asyncio.gather(*waited, *later), strict=True):
            assert (answer.version, answer.outputs) == (2, [("new", text, "-")])
        assert old.batches == [["first"]]
        assert new.batches == [["a", "b", "c", "d"]]
        await subject.close()

    run(scenario)


def test_no_answer_mixes_versions_while_versions_change_under_load():
    async def scenario() -> None:
        subject = batcher(budget=6)
        predictors = {version: Echo(f"v{version}") for version in range(1, 6)}
        subject.serve(1, predictors[1])
        answers: list[Prediction] = []

        async def client(name: int) -> None:
            for turn in range(20):
                answers.append(await subject.submit([f"{name}", f"{turn}"], ["-", "-"]))
                version = 1 + len(answers) // 32
                if len(answers) % 32 == 0 and version in predictors:
                    subject.serve(version, predictors[version])

        await asyncio.gather(*[client(name) for name in range(8)])
        assert len(answers) == 160
        assert {answer.version for answer in answers} == {1, 2, 3, 4, 5}
        for answer in answers:
            assert {output[0] for output in answer.outputs} == {f"v{answer.version}"}
        versions = [answer.version for answer in answers]
        assert versions == sorted(versions)
        await subject.close()

    run(scenario)


# --- the end -------------------------------------------------------------------------------------------------------------


def test_closing_finishes_the_running_batch_and_fails_what_waits():
    async def scenario() -> None:
        subject, predictor = batcher(), Held()
        subject.serve(1, predictor)
        running = await occupied(subject, predictor)
        waiting = [await submitted(subject, text) for text in "ab"]
        closing: Awaitable[None] = asyncio.create_task(subject.close())
        for task in waiting:
            with pytest.raises(NotReady, match="the replica is shutting down"):
                await task
        predictor.released.set()
        assert (await running).outputs == [("v1", "first", "-")]
        await closing
        assert predictor.batches == [["first"]]

    run(scenario)


def test_a_closed_batcher_takes_nothing_more():
    async def scenario() -> None:
        subject = batcher()
        subject.serve(1, Echo())
        await subject.close()
        with pytest.raises(NotReady, match="the replica is shutting down"):
            await subject.submit(["a"], ["-"])

    run(scenario)
