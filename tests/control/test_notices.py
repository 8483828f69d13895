"""Notices, to receivers that are real HTTP servers: each event once, signed, until it is received."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from baton.config.changes import shown
from baton.config.file import BatonConfig, read_config, validate
from baton.config.notify_settings import NotifySettings
from baton.errors import ConfigError
from baton.store.records import HistoryKind, RunState
from baton.store.registry import Registry
from services.control.notices import notifier, webhook
from services.control.notices.notifier import Notifier
from tests.cli.test_cli import serving
from tests.support.database import migrated_registry

SECRET = "whsec_" + "c2VjcmV0IG9mIGEgdGVzdA=="


class Receiver:
    """Takes what it is sent, and answers with the next status that it was given (200 if there is none left)."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body = b""
        more = True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.got.append(({key.decode(): value.decode() for key, value in scope["headers"]}, body))
        status = self.statuses.pop(0) if self.statuses else 200
        headers = [(b"location", b"/elsewhere")] if status == 302 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    @property
    def told(self) -> list[tuple[str, str]]:
        """Type and text of each event, in order."""
        bodies = [json.loads(body) for _, body in self.got]
        return [(body["type"], body["data"]["text"]) for body in bodies]


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    receiver = Receiver()
    with serving(receiver) as url:
        yield receiver, f"{url}/hook"


@pytest.fixture
def registry(tmp_path) -> Registry:
    registry = migrated_registry(f"sqlite:///{tmp_path}/baton.db")
    registry.declare_model("m")
    registry.declare_model("other")
    return registry


def happen(registry: Registry, text: str, kind: HistoryKind = HistoryKind.DRIFT, model: str = "m") -> None:
    registry.history.add_incident(model, kind, text)


def tell(registry: Registry, *receivers: NotifySettings, times: int = 1, models: tuple[str, ...] = ("m",)) -> None:
    """What the control plane does every second."""

    async def rounds() -> None:
        for _ in range(times):
            # new ones each time: a control plane may be killed between two
            await asyncio.gather(*(Notifier(receiver, registry).tell(models) for receiver in receivers))

    asyncio.run(rounds())


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed notices are due again at once."""
    monkeypatch.setattr(notifier, "FIRST_PAUSE", timedelta(0))


def test_each_event_is_told_once_and_only_what_happens_after_the_receiver_is_known(registry):
    happen(registry, "before")
    with receiving() as (receiver, url):
        settings = NotifySettings(url=url)
        tell(registry, settings)
        assert receiver.told == []
        happen(registry, "first")
        happen(registry, "nobody asked for it", HistoryKind.RETRAIN_HELD)
        happen(registry, "second", HistoryKind.ROLLOUT_FAILED)
        happen(registry, "of a model that another cluster looks after", model="other")
        tell(registry, settings, times=3)
        assert receiver.told == [("drift", "first"), ("rollout failed", "second")]
        [(headers, body), _] = receiver.got
        assert headers["content-type"] == "application/json"
        assert "webhook-signature" not in headers, "there is no secret"
        entry = registry.history.list("m")[-2]
        assert headers["webhook-id"] == f"{entry.id}-{entry.at:%Y%m%d%H%M%S}"
        assert json.loads(body) == {
            "type": "drift",
            "timestamp": entry.at.isoformat(),
            "data": {"model": "m", "version": None, "text": "first", "details": {}},
        }


@pytest.mark.parametrize("secret", [SECRET, "sixteen characters or more"])
def test_the_signature_is_what_the_library_of_the_standard_verifies(registry, secret):
    with receiving() as (receiver, url):
        settings = NotifySettings(url=url, secret=secret)
        tell(registry, settings)
        happen(registry, "drifts \u00e4\u5317")
        tell(registry, settings)
        [(headers, body)] = receiver.got
    key = secret if secret == SECRET else secret.encode()
    assert Webhook(key).verify(body, headers)["data"]["text"] == "drifts \u00e4\u5317"
    with pytest.raises(WebhookVerificationError):
        Webhook(key).verify(body.replace(b"drifts", b"thrives"), headers)


@pytest.mark.parametrize("status", [500, 503, 404, 302])
def test_what_is_not_received_is_sent_again_with_the_same_id(registry, at_once, status):
    with receiving() as (receiver, url):
        settings = NotifySettings(url=url)
        tell(registry, settings)
        happen(registry, "first")
        receiver.statuses = [status, status]
        tell(registry, settings, times=5)
        assert receiver.told == [("drift", "first")] * 3
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1


def test_the_pauses_between_tries_grow_and_in_the_end_it_is_given_up(registry, monkeypatch):
    with receiving() as (_, gone):
        pass  # nothing listens there any more
    settings = NotifySettings(url=gone)
    tell(registry, settings)
    happen(registry, "first")
    clock = [datetime.now(UTC)]
    monkeypatch.setattr(notifier, "datetime", Clock(lambda: clock[0]))
    store = registry.notices
    monkeypatch.setattr("baton.store.notice_store.now", lambda: clock[0])
    waits = []
    for _ in range(200):
        tell(registry, settings)
        before = clock[0]
        while not store.due(notifier.name_of(settings), ["m"], 1):
            clock[0] += timedelta(seconds=1) if clock[0] - before < timedelta(minutes=2) else timedelta(minutes=1)
            if clock[0] - before > timedelta(hours=2):
                break
        else:
            waits.append((clock[0] - before).total_seconds())
            continue
        break
    assert waits[:4] == pytest.approx([5, 10, 20, 40], abs=1)
    assert max(waits) == pytest.approx(3600, abs=60)
    assert timedelta(days=2.9) < timedelta(seconds=sum(waits)) < timedelta(days=3.1)


class Clock:
    """Stands for `datetime` where only the present is asked for."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now

    def now(self, _zone: Any) -> datetime:
        return self._now()


def test_a_receiver_that_is_gone_hears_no_more_of_an_event(registry, at_once):
    with receiving() as (receiver, url):
        settings = NotifySettings(url=url)
        tell(registry, settings)
        happen(registry, "first")
        receiver.statuses = [410]
        tell(registry, settings, times=3)
        assert len(receiver.got) == 1


def test_a_receiver_that_fails_does_not_hold_up_another(registry):
    with receiving() as (_, dead):
        pass
    with receiving() as (receiver, url):
        both = (NotifySettings(url=dead), NotifySettings(url=url, events=("drift",)))
        tell(registry, *both)
        happen(registry, "first")
        tell(registry, *both)
        assert receiver.told == [("drift", "first")]


def test_a_notifier_that_goes_on_hears_of_each_new_entry_and_of_other_models(registry):
    with receiving() as (receiver, url):
        going_on = Notifier(NotifySettings(url=url), registry)

        async def rounds() -> None:
            await going_on.tell(["m"])
            happen(registry, "first")
            await going_on.tell(["m"])
            await going_on.tell(["m"])
            await going_on.tell(["m", "other"])
            happen(registry, "of the other", model="other")
            await going_on.tell(["m", "other"])

        asyncio.run(rounds())
        assert receiver.told == [("drift", "first"), ("drift", "of the other")]


def test_why_a_run_failed_is_not_told_as_it_may_quote_data(registry):
    run = registry.runs.create("m", {}, started=True)
    with receiving() as (receiver, url):
        settings = NotifySettings(url=url)
        tell(registry, settings)
        registry.runs.finish(run.id, RunState.FAILED, reason="the context has 'PIN 1234' at character 7")
        tell(registry, settings)
        [(_, body)] = receiver.got
    assert json.loads(body)["data"]["text"] == "A run of m failed; `baton runs m` says why"


def test_a_receiver_that_does_not_answer_in_time_has_refused(registry, monkeypatch):
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.5)

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http", "nothing to start or to end"
        while (await receive())["type"] != "http.disconnect":  # until the caller gives up
            pass

    with serving(silent) as url, pytest.raises(webhook.Refused, match="no answer"):
        asyncio.run(webhook.send(f"{url}/hook", None, "incident-1", datetime.now(UTC), {}))


def test_the_log_does_not_tell_the_address_which_may_be_secret(registry, caplog):
    with receiving() as (receiver, url):
        secret = url.replace("http://", "http://user:pass@") + "/T0/B0/xyz?token=abc"
        settings = NotifySettings(url=secret)
        tell(registry, settings)
        happen(registry, "first")
        receiver.statuses = [500]
        tell(registry, settings)
    assert "did not take incident-" in caplog.text
    assert "status 500; again in 5 s" in caplog.text
    assert not any(word in caplog.text for word in ("xyz", "abc", "pass"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"url": "hooks.example.com"}, "notify[0].url"),
        ({"url": "https://hooks.example.com:99999/x"}, "with a port from 1 to 65535"),
        ({"url": "ftp://hooks.example.com/x"}, "http://HOST/"),
        ({"url": "https://hooks.example.com/x", "events": ["promotion"]}, "promoted"),
        ({"url": "https://hooks.example.com/x", "events": []}, "notify[0].events"),
        ({"url": "https://hooks.example.com/x", "secret": "short"}, "notify[0].secret"),
        ({"url": "https://hooks.example.com/x", "secret": "whsec_not base64!"}, "base64 behind whsec_"),
        ({"url": "https://hooks.example.com/x", "event": "promoted"}, "events"),
    ],
)
def test_each_mistake_in_the_settings_is_told(settings, told):
    model = {"name": "m", "task": "classification", "data": {"train": "t.jsonl"}}
    with pytest.raises(ConfigError) as caught:
        validate(BatonConfig, {"models": [model], "notify": [settings]}, source="baton.yaml")
    assert told in str(caught.value), str(caught.value)


def test_a_url_that_is_listed_twice_is_told_and_two_of_one_host_are_not(tmp_path):
    url = "https://hooks.example.com/x"

    def load(*urls: str) -> BatonConfig:
        model = {"name": "m", "task": "classification", "data": {"train": "t.jsonl"}}
        path = tmp_path / "baton.yaml"
        path.write_text(json.dumps({"models": [model], "notify": [{"url": it} for it in urls]}))
        return read_config(path, {})

    with pytest.raises(ConfigError, match=r"notify: a URL at https://hooks\.example\.com/… is there twice"):
        load(url, url)
    two = load(url, f"{url}y")
    assert validate(BatonConfig, shown(two), source="the service").notify[0].url == two.notify[0].shown
