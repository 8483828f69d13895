"""A trial inside a replica: who answers, what callers notice of a bad version, and what is measured."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from baton.errors import InvalidInput, NotFinite
from baton.store.records import Rollout, RolloutMode, RolloutState
from baton.tasks.checks import text_length
from baton.tasks.classification import Classification
from baton.tasks.text_classifier import TextInput
from baton.text.masks import masker
from services.replica import trial as module
from services.replica.answer_cache import AnswerCache
from services.replica.batching import Batcher
from services.replica.routing import Router
from services.replica.trial import MAX_WAITING, Trial

TASK = Classification(("billing", "cards"), 32)


class Answering:
    """A predictor that answers ``label`` to everything, or does what ``on_text`` does."""

    overhead_tokens = 500

    def __init__(self, label: str, on_text: Callable[[str], None] = lambda text: None) -> None:
        self.task, self._label, self._on_text = TASK, label, on_text
        self.seen: list[str] = []

    def predict(self, inputs: Sequence[Any], options: Sequence[Any] | None = None, *_: Any) -> list[Any]:
        for item in inputs:
            self._on_text(item.text)
            self.seen.append(item.text)
        best = self._label
        other = "cards" if best == "billing" else "billing"
        return [TASK.Output(labels=(best, other), scores=(0.9, 0.1)) for _ in inputs]

    def steps(
        self, inputs: Sequence[Any], options: Sequence[Any] | None = None, budget: int | None = None, *_: Any
    ) -> Iterator[Any]:
        yield None
        yield self.predict(inputs, options)


def rollout(state: RolloutState, percent: float = 100.0) -> Rollout:
    at = datetime.now(UTC)
    return Rollout(
        id=5,
        model="m",
        version=2,
        champion=1,
        mode=RolloutMode(state),
        percent=percent,
        minutes=None,
        decision_id=None,
        state=state,
        reason=None,
        evidence={},
        owner="local",
        asked=None,
        created_at=at,
        changed_at=at,
    )


async def ask(router: Router, text: str, key: str = "k", version: str = "", *, heavy: bool = False) -> tuple[int, str]:
    """The version that answered, and its label. The request's id is made of its text."""
    options = [TASK.Options()]
    prediction = await router.answer(
        [TextInput(text=text)], options, answer_id=f"id of {text}", key=key, version=version, heavy=heavy
    )
    return prediction.version, prediction.outputs[0].label


def with_trial(
    new: Answering,
    state: RolloutState,
    work: Callable[[Router, Trial], Awaitable[None]],
    percent: float = 100.0,
    keep: Callable[..., None] = lambda *copy: None,
    before_mask: Callable[[], None] = lambda: None,
) -> None:
    """Do ``work`` while version 2 is on trial beside version 1, which answers «billing» to everything."""

    def mask(item: Any) -> Any:
        before_mask()
        return masker(["Anna"])(item)

    async def run() -> None:
        batcher = Batcher(
            max_batch_tokens=1024, max_queue=64, max_queue_ms=math.inf, estimate=TASK.estimate_tokens, characters=text_length
        )
        batcher.serve(1, Answering("billing"))
        router = Router(batcher, AnswerCache(0))
        trial = Trial(
            rollout(state, percent),
            new,  # type: ignore[arg-type]
            max_batch_tokens=1024,
            patience=3.0,
            keep=keep,
            mask=mask,
        )
        router.trial = trial
        try:
            await work(router, trial)
        finally:
            await trial.close()
            await batcher.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_caller_in_a_hurry_gets_the_champions_answer_from_a_version_that_hangs_and_the_stall_is_seen():
    release = threading.Event()

    async def work(router: Router, trial: Trial) -> None:
        options = [TASK.Options()]
        try:
            for number in range(3):
                asked = router.answer([TextInput(text="a")], options, answer_id=str(number), key="k", seconds=0.2)
                assert (await asked).version == 1
            counts = trial.counts()
        finally:
            release.set()
        assert (counts.late, counts.skipped) == (0, 3), "a short deadline is no fault of the version"
        assert counts.stalled_seconds > 0

    with_trial(Answering("cards", lambda text: release.wait(30) and None), RolloutState.CANARY, work)


async def measured(trial: Trial, condition: Callable[[Any], bool]) -> None:
    """Wait until the trial has measured what is expected."""
    while not condition(trial.counts()):  # noqa: ASYNC110  nothing tells
        await asyncio.sleep(0.005)


# --- canary --------------------------------------------------------------------------------------------------------------


def test_a_canary_answers_its_share_and_the_same_key_gets_the_same_version():
    async def work(router: Router, trial: Trial) -> None:
        keys = [f"caller {number}" for number in range(1000)]
        first = [(await ask(router, "a text", key))[0] for key in keys]
        assert 60 < first.count(2) < 140
        assert [(await ask(router, "another text", key))[0] for key in keys] == first
        assert (trial.counts().answers, trial.counts().champion_answers) == (2 * first.count(2), 2 * first.count(1))

    with_trial(Answering("cards"), RolloutState.CANARY, work, percent=10.0)


@pytest.mark.parametrize("state", [RolloutState.CANARY, RolloutState.SHADOW])
def test_explanations_which_take_hundreds_of_passes_are_no_part_of_a_trial(state):
    async def work(router: Router, trial: Trial) -> None:
        answers = [await ask(router, "why?", f"caller {number}", heavy=True) for number in range(50)]
        assert {version for version, _ in answers} == {1}
        counts = trial.counts()
        assert (counts.answers, counts.champion_answers) == (0, 0)
        assert (await ask(router, "why?", version="2", heavy=True))[0] == 2, "a tester may ask it"

    with_trial(Answering("cards"), state, work, percent=50.0)


def fail_on(word: str, error: Exception) -> Callable[[str], None]:
    def check(text: str) -> None:
        if word in text:
            raise error

    return check


@pytest.mark.parametrize("error", [RuntimeError("in native code"), NotFinite("the logits are not numbers")])
def test_no_caller_gets_an_error_that_the_champion_would_not_have(error):
    async def work(router: Router, trial: Trial) -> None:
        assert await ask(router, "a bad text") == (1, "billing")
        assert await ask(router, "a good text") == (2, "cards")
        assert (trial.counts().errors, trial.counts().answers) == (1, 1)

    with_trial(Answering("cards", fail_on("bad", error)), RolloutState.CANARY, work)


def test_an_input_on_which_both_versions_raise_counts_for_whoever_got_it_first():
    """The champion's errors outside the share count, too: so the two are compared on equal terms."""

    async def work(router: Router, trial: Trial) -> None:
        router._batcher.serve(1, Answering("billing", fail_on("bad", ValueError("no"))))
        with pytest.raises(ValueError, match="no"):
            await ask(router, "a bad text")
        assert (trial.counts().errors, trial.counts().champion_errors) == (1, 0)

    with_trial(Answering("cards", fail_on("bad", ValueError("no"))), RolloutState.CANARY, work)


def test_a_version_that_hangs_delays_one_request_and_the_champion_answers_all(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.05)
    release = threading.Event()

    async def work(router: Router, trial: Trial) -> None:
        try:
            answers = [await ask(router, f"text {number}", str(number)) for number in range(20)]
            counts = trial.counts()
        finally:
            release.set()
        assert answers == [(1, "billing")] * 20
        assert (counts.late, counts.skipped) == (1, 19)
        assert counts.stalled_seconds > 0
        while trial.batcher.busy:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.001)
        assert trial.counts().stalled_seconds == 0  # it was late, and is no more

    with_trial(Answering("cards", lambda text: release.wait(30) and None), RolloutState.CANARY, work)


def test_both_versions_run_the_same_inputs_now_and_then_and_their_times_and_answers_are_compared():
    async def work(router: Router, trial: Trial) -> None:
        await ask(router, "Anna pays")
        await measured(trial, lambda counts: counts.compared == 1)
        counts = trial.counts()
        assert len(counts.ratios) == 1
        assert (counts.agreed, round(counts.shift, 3)) == (0, 0.8)
        [example] = counts.examples
        assert (example["input"], example["champion"], example["version"]) == (
            {"text": "████ pays"},
            "billing (0.90)",
            "cards (0.90)",
        )

    with_trial(Answering("cards"), RolloutState.CANARY, work)


def test_every_eighth_copy_is_timed_also_if_the_masks_of_examples_take_long():
    all_answered = threading.Event()

    async def work(router: Router, trial: Trial) -> None:
        await asyncio.gather(*(ask(router, f"text {number}") for number in range(9)))
        await measured(trial, lambda counts: counts.answers == 9)
        all_answered.set()
        await measured(trial, lambda counts: counts.compared == 9 and len(counts.ratios) >= 2)
        await asyncio.gather(*trial._copies)
        assert len(trial.counts().ratios) == 2

    with_trial(Answering("cards"), RolloutState.SHADOW, work, before_mask=lambda: all_answered.wait(30) and None)


def test_a_tester_chooses_the_version_and_an_unknown_one_is_told_what_runs():
    async def work(router: Router, trial: Trial) -> None:
        assert await ask(router, "a text", version="2") == (2, "cards")
        assert await ask(router, "a text", version="1") == (1, "billing")
        with pytest.raises(InvalidInput, match="x-baton-version: '7' does not run here; allowed: 1, 2, or leave it out"):
            await ask(router, "a text", version="7")
        assert trial.counts().answers == 0

    with_trial(Answering("cards"), RolloutState.CANARY, work, percent=0.001)


def test_requests_that_wait_when_a_trial_ends_are_answered_by_the_champion(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 60)
    started, release = threading.Event(), threading.Event()

    def wait(text: str) -> None:
        started.set()
        release.wait(30)

    async def work(router: Router, trial: Trial) -> None:
        requests = [asyncio.create_task(ask(router, "the first text"))]
        await asyncio.to_thread(started.wait, 30)
        requests += [asyncio.create_task(ask(router, f"text {number}", str(number))) for number in range(4)]
        while trial.batcher.waiting < 4:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.001)
        router.trial = None
        closing = asyncio.create_task(trial.close())
        await asyncio.sleep(0)
        release.set()
        await closing
        assert sorted([version for version, _ in await asyncio.gather(*requests)]) == [1, 1, 1, 1, 2]

    with_trial(Answering("cards", wait), RolloutState.CANARY, work)


# --- shadow --------------------------------------------------------------------------------------------------------------


def test_a_shadow_gets_copies_and_every_caller_the_champions_answer():
    new = Answering("cards")

    async def work(router: Router, trial: Trial) -> None:
        assert [await ask(router, f"text {number}", str(number)) for number in range(10)] == [(1, "billing")] * 10
        await measured(trial, lambda counts: counts.answers == 10 and counts.compared == 10)
        assert {f"text {number}" for number in range(10)} <= set(new.seen)
        assert (trial.counts().agreed, len(trial.counts().examples)) == (0, 10)

    with_trial(new, RolloutState.SHADOW, work)


def test_a_shadows_answers_are_kept_with_the_ids_of_their_requests_after_the_callers_have_theirs():
    release, kept = threading.Event(), []

    def keep(answer_id: str, version: int, inputs: Sequence[Any], options: Sequence[Any], outputs: Sequence[Any]) -> None:
        kept.append((answer_id, version, inputs[0].text, options, outputs[0].label))

    async def work(router: Router, trial: Trial) -> None:
        try:
            assert await ask(router, "one") == (1, "billing")  # while the shadow waits
            assert await ask(router, "two") == (1, "billing")
            assert kept == []
        finally:
            release.set()
        await measured(trial, lambda counts: counts.answers == 2)
        assert kept == [(f"id of {text}", 2, text, [TASK.Options()], "cards") for text in ("one", "two")]

    with_trial(Answering("cards", lambda text: release.wait(30) and None), RolloutState.SHADOW, work, keep=keep)


def test_nothing_but_what_a_shadow_answered_to_copies_is_kept():
    kept: list[str] = []

    async def in_shadow(router: Router, trial: Trial) -> None:
        await ask(router, "bad")
        await ask(router, "chosen by a tester", version="2")
        await ask(router, "a copy")
        await measured(trial, lambda counts: (counts.errors, counts.answers) == (1, 1))
        await measured(trial, lambda counts: len(counts.ratios) == 1)  # it ran once more, to be timed

    async def as_canary(router: Router, trial: Trial) -> None:
        assert await ask(router, "an answer") == (2, "cards")
        await measured(trial, lambda counts: counts.compared == 1)

    new = Answering("cards", fail_on("bad", RuntimeError("in native code")))
    with_trial(new, RolloutState.SHADOW, in_shadow, keep=lambda answer_id, *rest: kept.append(answer_id))
    with_trial(new, RolloutState.CANARY, as_canary, keep=lambda answer_id, *rest: kept.append(answer_id))
    assert kept == ["id of a copy"]


def test_a_shadow_that_raises_or_hangs_is_noticed_by_nobody_but_the_watch():
    release = threading.Event()

    def misbehave(text: str) -> None:
        if text == "bad":
            raise RuntimeError
        if text == "slow":
            release.wait(30)

    async def work(router: Router, trial: Trial) -> None:
        try:
            assert await ask(router, "bad") == (1, "billing")
            await measured(trial, lambda counts: counts.errors == 1)
            for number in range(2 * MAX_WAITING):
                assert await ask(router, "slow", str(number)) == (1, "billing")
            counts = trial.counts()
            assert counts.skipped >= MAX_WAITING - 2
            assert counts.stalled_seconds > 0
        finally:
            release.set()

    with_trial(Answering("cards", misbehave), RolloutState.SHADOW, work)


def test_a_shadow_compares_failures_on_the_requests_of_its_share_alone():
    async def work(router: Router, trial: Trial) -> None:
        for number in range(50):
            await ask(router, f"text {number}", str(number))
        await measured(trial, lambda counts: counts.answers == counts.champion_answers)
        assert 0 < trial.counts().champion_answers < 50

    with_trial(Answering("cards"), RolloutState.SHADOW, work, percent=30.0)


def test_the_end_of_a_trial_that_times_a_hanging_version_does_not_block_the_replica():
    release = threading.Event()

    def hang(text: str) -> None:
        if text == "timed" and timed.is_set():
            release.wait(30)
        timed.set()

    timed = threading.Event()

    async def work(router: Router, trial: Trial) -> None:
        try:
            await ask(router, "timed")  # is answered, and then run again to be timed
            closing = asyncio.create_task(trial.close())
            for _ in range(20):
                assert await asyncio.wait_for(ask(router, "another", version="1"), 5) == (1, "billing")
            await closing
        finally:
            release.set()

    with_trial(Answering("cards", hang), RolloutState.CANARY, work)
