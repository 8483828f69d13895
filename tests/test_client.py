"""The clients for applications, over real HTTP: a served model, the control plane, and services that fail in all ways."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from baton import client as client_module
from baton.artifacts.storage import Storage
from baton.client import AsyncClient, Client, FeedbackReport, ServiceError, content_id
from baton.errors import NotReady
from services.replica import prediction_log
from services.replica.replica import ModelReplica
from tests.cli.test_cli import serving
from tests.support import replica as replicas
from tests.support.local_control import LocalControl, configured, control_of
from tests.support.tiny import save_classifier

ROOT = Path(__file__).parent.parent
LABELS = ("billing", "bug", "shipping")
ROW = {"text": "hello", "label": "bug"}

Ask = Callable[..., Any]


class Blocking:
    """`AsyncClient` with `Client`'s manners, so that one test says what both do."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url, self._options = url, options

    def predict(self, *arguments: Any, **parameters: Any) -> Any:
        return asyncio.run(self._ask("predict", *arguments, **parameters))

    def feedback(self, *arguments: Any, **item: Any) -> Any:
        return asyncio.run(self._ask("feedback", *arguments, **item))

    def close(self) -> None: ...

    async def _ask(self, method: str, *arguments: Any, **parameters: Any) -> Any:
        async with AsyncClient(self._url, **self._options) as client:
            return await getattr(client, method)(*arguments, **parameters)


@pytest.fixture(params=[Client, Blocking], ids=["Client", "AsyncClient"])
def client_cls(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes a client, which is closed at the end."""
    with ExitStack() as made:
        yield lambda url, **options: made.enter_context(closing(request.param(url, **options)))


@pytest.fixture(scope="module")
def classifier(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tiny_base, LABELS, tmp_path_factory.mktemp("classifier"))


class Service:
    """Model ``m`` behind one URL: the control plane, and a replica below ``/models/m``."""

    def __init__(self, control: LocalControl, url: str) -> None:
        self.control, self.url = control, url
        self.store = control.registry.feedback


@pytest.fixture
def service(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(prediction_log, "FLUSH_SECONDS", 0.05)  # corrections wait long enough on a busy machine, too
    config = configured(tmp_path, "m")
    control = control_of(config)
    storage = Storage(config.storage)
    replicas.publish(control.registry, storage, "m", classifier, LABELS)
    replicas.force(control.registry, "m", 1)
    settings = {**config.models[0].model_dump(mode="json"), "serving": {"precision": "fp32", "device": "cpu"}}
    replica = ModelReplica(settings, config.database, storage.url, replica_id="r1")
    inner, api = replica.__serve_build_asgi_app__(), control.__serve_build_asgi_app__()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        below = scope["type"] == "http" and scope["path"].startswith("/models/m")
        await (inner({**scope, "root_path": "/models/m"}, receive, send) if below else api(scope, receive, send))

    with serving(application) as url:
        yield Service(control, url)


class Stub:
    """A service that answers what it is told to, in turn, and remembers what it was asked."""

    def __init__(self, answers: Sequence[tuple[int, dict[str, str], bytes] | None]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"  # to uvicorn this says that there is no lifespan
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.asked.append((scope["path"], headers, body))
        answer = self._answers.pop(0)
        if answer is None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
            await send({"type": "http.response.body", "body": b"the connection breaks in the mid", "more_body": True})
            raise ConnectionAbortedError("on purpose")
        status, extra, content = answer
        encoded = [(key.encode(), value.encode()) for key, value in extra.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": content})


@contextmanager
def stub(*answers: tuple[int, dict[str, str], bytes] | None) -> Iterator[tuple[Stub, str]]:
    application = Stub(answers)
    with serving(application) as url:
        yield application, url


GOOD = (200, {"x-model-version": "3", "x-queue-ms": "0.1", "x-inference-ms": "2.5", "x-request-id": "r7"}, b'["yes"]')
BUSY = (429, {"retry-after": "0"}, b'{"error": "the queue is full"}')
TAKEN = (200, {}, b'{"accepted": 1, "duplicates": 0, "replaced": 0, "rejected": 0, "errors": [], "new_labels": []}')


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.001)


# --- a real service ------------------------------------------------------------------------------------------------------


def test_one_input_is_answered_alone_and_a_list_as_a_list(service, client_cls):
    client = client_cls(service.url)
    one = client.predict("m", "where is my parcel?", top_k=2)
    assert [set(choice) for choice in one.outputs] == [{"label", "score"}] * 2
    assert one.version == 1
    assert one.inference_ms > 0
    both = client.predict("m", ["where is my parcel?", {"text": "it crashed", "text_pair": "twice"}], top_k=2)
    assert [len(output) for output in both.outputs] == [2, 2]
    assert [choice["label"] for choice in both.outputs[0]] == [choice["label"] for choice in one.outputs]
    assert both.request_id != one.request_id
    assert both.answer_id != one.answer_id


def test_a_client_learns_which_answers_are_too_unsure(client_cls):
    status, headers, _ = GOOD
    unsure = (status, {**headers, "x-abstain": "0,2"}, b'["yes", "no", "yes"]')
    with stub(unsure, GOOD) as (_, url):
        client = client_cls(url)
        assert client.predict("m", ["a", "b", "c"]).unsure == (0, 2)
        assert client.predict("m", "a").unsure == ()


@pytest.mark.parametrize("name", ["answer_id", "request_id"])
def test_an_answer_is_corrected_by_its_id_alone(service, client_cls, name):
    client = client_cls(service.url)
    answer = client.predict("m", ["where is my parcel?", "it crashed"])
    told = [{"id": "t1", name: getattr(answer, name), "position": 1, "label": "bug"}]
    assert client.feedback("m", told) == FeedbackReport(accepted=1)
    assert client.feedback("m", told[0]) == FeedbackReport(duplicates=1)
    assert client.feedback("m", **told[0]) == FeedbackReport(duplicates=1)
    [kept] = service.store.all("m")
    assert kept.example == {"text": "it crashed", "label": "bug"}
    [(logged, _)] = service.control.registry.predictions.corrected("m", 1, 10)
    assert (logged.answer_id, logged.request_id, logged.position) == (answer.answer_id, answer.request_id, 1)


def test_a_request_id_of_the_applications_own_is_kept(service, client_cls):
    answer = client_cls(service.url).predict("m", "hello", request_id="order-17")
    assert answer.request_id == "order-17"


def test_any_number_of_corrections_goes_in_batches_and_errors_keep_their_places(service, client_cls, monkeypatch):
    monkeypatch.setattr(client_module, "BATCH", 10)
    items = ({"id": f"c{number}", **(ROW if number % 8 else {"text": "\ud800", "label": "bug"})} for number in range(34))
    report = client_cls(service.url).feedback("m", items)
    assert (report.accepted, report.rejected) == (29, 5)
    assert [error["item"] for error in report.errors] == [0, 8, 16, 24, 32]
    assert service.store.count_after("m", 0) == 29


def test_corrections_of_which_none_is_right_are_a_report_too(service, client_cls):
    report = client_cls(service.url).feedback("m", [{"text": "hello"}])
    assert (report.accepted, report.rejected) == (0, 1)
    assert "field 'label' is missing" in report.errors[0]["error"]


def test_problems_are_told_in_the_services_words(service, client_cls):
    client = client_cls(service.url)
    for ask, status, words in (
        (lambda: client.predict("nope", "hello"), 404, "unknown model 'nope'; declared models: m"),
        (lambda: client.predict("m", " "), 422, "inputs\\[0\\]: text is empty"),
        (lambda: client.predict("m", "hello", top_p=1), 422, "top_p"),
        (lambda: client.feedback("nope", ROW), 404, "unknown model 'nope'; declared models: m"),
        (lambda: client.predict("../api/models", "hello"), 404, "unknown model"),
    ):
        with pytest.raises(ServiceError, match=words.replace("(", r"\(")) as caught:
            ask()
        assert caught.value.status == status


# --- the documentation ---------------------------------------------------------------------------------------------------


def example(service: Service, text: str) -> str:
    """An example of the documentation, for this service."""
    return text.replace("http://127.0.0.1:8000", service.url).replace("localhost:8000", service.url).replace("intents", "m")


@pytest.mark.parametrize("document", ["README.md", "docs/feedback.md"])
def test_the_python_examples_of_the_documentation_work(service, document):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        before = service.store.count_after("m", 0)
        exec(compile(example(service, block), document, "exec"), {})
        assert service.store.count_after("m", 0) > before


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_examples_of_the_documentation_work(service, tmp_path):
    (tmp_path / "corrections.jsonl").write_text(json.dumps(ROW) + "\n")
    commands = re.findall(r"^\$ (curl .*)$", (ROOT / "docs/feedback.md").read_text(), flags=re.MULTILINE)
    told = [
        json.loads(subprocess.run(example(service, command), shell=True, cwd=tmp_path, check=True, capture_output=True).stdout)
        for command in commands
    ]
    predictions, by_id, stream, withdrawn = told
    assert len(predictions) == 2
    assert withdrawn == {"withdrawn": 1}
    accepted = {"accepted": 1, "duplicates": 0, "replaced": 0, "rejected": 0, "errors": [], "new_labels": []}
    assert (by_id, stream) == (accepted, accepted)
    assert [it.example for it in service.store.all("m")] == [ROW]


# --- a service with troubles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [BUSY, (503, {}, b"{}"), None])
def test_a_prediction_is_asked_for_again_when_the_service_is_busy_or_a_connection_breaks(client_cls, impatient, first):
    with stub(first, GOOD) as (service, url):
        answer = client_cls(url).predict("m", "hello")
        assert (answer.outputs, answer.version, answer.request_id, answer.queue_ms) == ("yes", 3, "r7", 0.1)
        assert answer.answer_id == ""  # this service is older than answer ids
        assert len(service.asked) == 2
        assert service.asked[0][1]["x-request-id"] == service.asked[1][1]["x-request-id"]


def test_as_long_is_waited_as_the_service_asks_for(impatient):
    busy = [(429, {"retry-after": after}, b"{}") for after in ("2", "Wed, 21 Oct 2026 07:28:00 GMT", "30")]
    call = client_module.Call(method="POST", path="/", options={}, idempotent=True)
    pauses = [
        call.pause(attempt, 3, httpx.Response(status, headers=headers)) for attempt, (status, headers, _) in enumerate(busy)
    ]
    assert pauses == [2.0, 0.002, client_module.LONGEST_PAUSE]
    assert call.pause(0, 3, httpx.Response(429, headers={"retry-after": "3600"})) is None


def test_who_stays_busy_is_given_up_on(client_cls, impatient):
    with stub(*[BUSY] * 3) as (service, url):
        with pytest.raises(ServiceError, match="the queue is full") as caught:
            client_cls(url, retries=2).predict("m", "hello")
        assert caught.value.status == 429
        assert len(service.asked) == 3


def test_corrections_with_ids_are_sent_again_and_those_without_are_not(client_cls, impatient):
    with stub(BUSY, TAKEN) as (service, url):
        assert client_cls(url).feedback("m", {"id": "c", **ROW}) == FeedbackReport(accepted=1)
        assert service.asked[0][2] == service.asked[1][2]
    for trouble, error in ((BUSY, ServiceError), (None, NotReady)):
        with stub(trouble, TAKEN) as (service, url):
            with pytest.raises(error):
                client_cls(url).feedback("m", [{"id": "c", **ROW}, ROW])
            assert len(service.asked) == 1


def test_other_statuses_are_not_tried_again(client_cls, impatient):
    with stub((502, {}, b"<html>bad gateway"), GOOD) as (service, url):
        with pytest.raises(ServiceError, match="HTTP status 502: <html>bad gateway"):
            client_cls(url).predict("m", "hello")
        assert len(service.asked) == 1


@pytest.mark.parametrize("content", [b"<html>hello", b"{}", b'{"hello": "world"}', b"[]", b"5"])
def test_a_url_that_is_no_baton_is_told(client_cls, content):
    with stub((200, {}, content), (200, {}, content)) as (_, url):
        for ask in (lambda: client_cls(url).predict("m", "hello"), lambda: client_cls(url).feedback("m", ROW)):
            with pytest.raises(ServiceError, match="does not answer as Baton does: status 200"):
                ask()


def test_a_connection_that_breaks_is_told_with_what_may_have_happened(client_cls, impatient):
    """None: the stub closes the connection. A correction without an id is not sent again."""
    with (
        stub(None) as (_, url),
        pytest.raises(NotReady, match=r"broke before it answered .*may have been done"),
    ):
        client_cls(url).feedback("m", ROW)


def test_a_service_that_is_not_there_is_told_with_the_way_to_start_it(client_cls, impatient):
    for ask in (lambda it: it.predict("m", "hello"), lambda it: it.feedback("m", {"id": "c", **ROW})):
        with pytest.raises(NotReady, match=r"Baton does not answer at http://127\.0\.0\.1:1 .*; start it with `baton up`"):
            ask(client_cls("http://127.0.0.1:1/"))


# --- ids -----------------------------------------------------------------------------------------------------------------


def test_an_id_made_of_the_content_is_the_same_for_the_same_content_only():
    assert content_id(ROW) == content_id(dict(reversed(ROW.items()))) == content_id({"id": "other", **ROW})
    others = [{**ROW, "label": "other"}, {**ROW, "request_id": "r"}, {**ROW, "text": "hellö"}, {**ROW, "text": "\ud800"}]
    assert len({content_id(item) for item in [ROW, *others]}) == 5
    assert content_id(ROW) == "content-" + content_id(json.loads(json.dumps(ROW))).removeprefix("content-")
    assert len(content_id(ROW)) <= 128
