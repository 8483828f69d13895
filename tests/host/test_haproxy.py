"""What HAProxy does with our additions to Ray's configuration: the real program, before servers that misbehave."""

from __future__ import annotations

import contextlib
import math
import re
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from baton.config.serving_settings import MAX_INPUTS
from services.host import haproxy
from services.names import REFUSED, ROOM
from tests.support.haproxy import Backend, Front, render
from tests.support.waiting import until


def test_a_replica_without_a_version_gets_no_request_while_another_serves():
    with Front(Backend("good"), Backend("empty", ready=False)) as front:
        good, empty = front.replicas
        until(lambda: front.states()["empty"] == "DOWN", 20, "HAProxy notices the replica without a version")
        empty.requests.clear()
        answers = [front.predict() for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert (len(good.requests) >= 20, empty.requests) == (True, [])
        empty.ready = True
        until(lambda: front.states()["empty"] == "UP", 20, "HAProxy notices that it has one now")


def test_before_it_is_noticed_a_replica_without_a_version_costs_no_prediction():
    with Front(Backend("good"), Backend("empty")) as front:
        good, empty = front.replicas
        empty.refusing = True
        answers = [front.predict() for _ in range(10)]
        assert {answer.status_code for answer in answers} == {200}
        assert len(good.requests) == 10
        assert empty.requests


def test_replicas_that_all_lack_a_version_still_explain_themselves():
    with Front(Backend("one", ready=False), Backend("two", ready=False)) as front:
        until(lambda: {front.states()[name] for name in ("one", "two")} == {"DOWN"}, 20, "HAProxy notices both")
        front.fallback.requests.clear()
        answer = front.predict()
        assert (answer.status_code, answer.json()) == (503, {"by": "fallback"})  # by Serve's proxy, which asks one of them
        assert len(front.fallback.requests) == 1  # nobody else can be asked
        assert httpx.get(f"{front.url}/-/healthz").status_code == 200


def test_a_replica_that_serve_stops_gets_no_request_although_it_has_a_version():
    with Front(Backend("good"), Backend("leaving")) as front:
        front.replicas[1].draining = True
        until(lambda: front.states()["leaving"] == "DOWN", 20, "HAProxy notices")


def test_a_prediction_is_repeated_when_its_replica_dies_and_a_control_call_is_not():
    with Front(Backend("dying"), Backend("good")) as front:
        dying, good = front.replicas
        dying.dying = front.control.dying = math.inf
        answers = [front.predict() for _ in range(4)]
        assert {answer.status_code for answer in answers} == {200}
        assert dying.requests
        assert len(good.requests) == 4
        assert httpx.post(f"{front.url}/api/models/m/promotions", json={}).status_code == 500
        assert front.control.requests == ["POST /api/models/m/promotions"]


def test_a_connection_that_the_only_usable_replica_closes_costs_no_prediction():
    """Replicas close idle connections, now and then while a request is on its way."""
    with Front(Backend("good"), Backend("gone", ready=False)) as front:
        good, gone = front.replicas
        until(lambda: front.states()["gone"] == "DOWN", 20, "HAProxy notices the lost replica")
        gone.requests.clear()
        good.dying = 1
        assert front.predict().json() == {"by": "good"}
        assert (len(good.requests), gone.requests, front.fallback.requests) == (2, [], [])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/models/m", "/models/m/v2/models/m"),
        ("/v2/models/m/infer", "/models/m/v2/models/m/infer"),
        ("/v2/models/m/versions/3/infer?a=%2F", "/models/m/v2/models/m/versions/3/infer?a=%2F"),
        ("/v1/models/m:predict", "/models/m/v1/models/m:predict"),
        ("/v1/models/m%3Apredict", "/models/m/v1/models/m%3Apredict"),
        ("/models/m/v2/models/m/infer", "/models/m/v2/models/m/infer"),
    ],
)
def test_a_path_at_the_root_that_names_a_model_reaches_its_replicas_and_is_repeated_like_any_prediction(path, expected):
    with Front(Backend("dying"), Backend("good")) as front:
        dying, good = front.replicas
        dying.dying = math.inf
        answers = [httpx.post(front.url + path, json={}) for _ in range(4)]
        assert {(answer.status_code, answer.json()["by"]) for answer in answers} == {(200, "good")}
        assert set(dying.requests) == set(good.requests) == {f"POST {expected}"}
        assert front.control.requests == []


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v2/health/ready", "/v2/repository/index", "/v2/models/other/infer", "/v2/models/..%2Fm", "/v3/models/m"],
)
def test_a_path_at_the_root_that_names_no_model_that_is_served_reaches_the_control_plane(path):
    with Front(Backend("good")) as front:
        assert httpx.get(front.url + path).json() == {"by": "control"}
        assert front.replicas[0].requests == []


def test_the_positions_of_as_many_unsure_answers_as_a_request_can_have_fit_into_the_proxys_buffer():
    positions = ",".join(map(str, range(MAX_INPUTS)))
    with Front(Backend("good")) as front:
        front.replicas[0].headers["x-abstain"] = positions
        answer = httpx.post(front.url + "/models/m", json={})
        assert (answer.status_code, answer.headers["x-abstain"]) == (200, positions)


@pytest.mark.parametrize(
    ("begin", "told"),
    [
        (b"POST /models/m HTTP/1.1\r\nhost:", b"408 Request Time-out"),
        (
            b"POST /models/m HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
            b'{"error": "the request did not arrive',
        ),
    ],
    ids=["headers", "body"],
)
def test_a_request_that_never_ends_is_given_up(begin: bytes, told: bytes):
    with Front(Backend("good"), request_seconds=1) as front, socket.create_connection(("127.0.0.1", front.port)) as slow:
        slow.sendall(begin)
        slow.settimeout(20)
        answer = b"".join(iter(lambda: slow.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert told in answer
        assert front.replicas[0].requests == []


def test_what_the_replicas_have_no_room_for_is_refused_in_front_of_them_and_counted():
    with Front(Backend("one"), Backend("two")) as front, ThreadPoolExecutor(8) as clients:
        for replica in front.replicas:
            replica.room = 3
        told = front.predict()
        assert (told.status_code, ROOM in told.headers) == (200, False)
        for replica in front.replicas:
            replica.open.clear()

        def inside() -> int:
            return sum(len(replica.requests) for replica in front.replicas) - 1

        admitted = [clients.submit(front.predict) for _ in range(6)]  # three for each
        until(lambda: inside() == 6, 20, "all are inside")
        refused = [front.predict(), httpx.post(f"{front.url}/models/m/predict", json={})]
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(429, "1")}
        assert [set(answer.json()) for answer in refused] == [{"error"}, {"error", "error_type"}]
        assert httpx.get(f"{front.url}/models/m/info").status_code == 200
        assert httpx.post(f"{front.url}/api/models/m/promotions", json={}).json() == {"by": "control"}
        for replica in front.replicas:
            replica.open.set()
        assert {answer.result().status_code for answer in admitted} == {200}
        for _ in range(2):
            assert httpx.post(f"{front.url}/models/m", json={}, headers={REFUSED: "999"}).status_code == 200
        assert [number for replica in front.replicas for number in replica.refused] == ["2"]


@pytest.mark.parametrize("reason", ["its body is long", "a web page may read the answer", "it is no prediction"])
def test_what_the_proxy_cannot_refuse_well_is_left_to_the_replica(reason):
    with Front(Backend("one")) as front, ThreadPoolExecutor(8) as clients:
        [replica] = front.replicas
        replica.room = 0
        assert front.predict().status_code == 200
        replica.open.clear()
        url = f"{front.url}/models/m/v2/repository/index" if reason == "it is no prediction" else f"{front.url}/models/m"
        headers = {"origin": "https://shop.example"} if reason == "a web page may read the answer" else {}
        content = "x" * (1_000_000 if reason == "its body is long" else 100)
        admitted = [clients.submit(front.predict) for _ in range(haproxy.ALWAYS_ADMITTED)]
        until(lambda: len(replica.requests) == 1 + len(admitted), 20, "all are inside")
        assert front.predict().status_code == 429
        other = clients.submit(httpx.post, url, content=content, headers=headers, timeout=60)
        until(lambda: len(replica.requests) == 2 + len(admitted), 20, "it is inside, too")
        replica.open.set()
        assert {answer.result().status_code for answer in (*admitted, other)} == {200}


def test_what_replicas_told_of_their_room_is_soon_forgotten():
    with Front(Backend("one"), lately_seconds=haproxy.LATELY_SECONDS) as front, ThreadPoolExecutor(8) as clients:
        [replica] = front.replicas
        replica.room = 0
        assert front.predict().status_code == 200
        told = time.time()
        replica.open.clear()
        admitted = [clients.submit(front.predict) for _ in range(haproxy.ALWAYS_ADMITTED)]
        until(lambda: len(replica.requests) == 1 + len(admitted), 20, "all are inside")
        until(lambda: time.time() > told + haproxy.LATELY_SECONDS + 1, 20, "the last answer is a while ago")
        many = [clients.submit(front.predict) for _ in range(5)]
        until(lambda: len(replica.requests) == 1 + len(admitted) + len(many), 20, "all are inside")
        replica.open.set()
        assert {answer.result().status_code for answer in (*admitted, *many)} == {200}


def test_replicas_without_room_that_have_answered_everything_get_requests_again():
    with Front(Backend("one")) as front, ThreadPoolExecutor(8) as clients:
        [replica] = front.replicas
        replica.room = 0
        assert [front.predict().status_code for _ in range(5)] == [200] * 5
        replica.open.clear()
        admitted = [clients.submit(front.predict) for _ in range(haproxy.ALWAYS_ADMITTED)]
        until(lambda: len(replica.requests) == 5 + len(admitted), 20, "all are inside")
        assert front.predict().status_code == 429
        replica.room = None  # nobody waits any more
        replica.open.set()
        assert {answer.result().status_code for answer in admitted} == {200}
        replica.open.clear()
        many = [clients.submit(front.predict) for _ in range(8)]
        until(lambda: len(replica.requests) == 5 + len(admitted) + len(many), 20, "all are inside")
        replica.open.set()
        assert {answer.result().status_code for answer in many} == {200}


def connect(port: int, source: str) -> socket.socket:
    """A connection from ``source``, which may be closed again by now."""
    connection = socket.socket()
    connection.bind((source, 0))
    with contextlib.suppress(ConnectionResetError):
        connection.connect(("127.0.0.1", port))
    return connection


def test_one_address_gets_half_of_the_connections_and_no_more():
    with Front(Backend("good"), maxconn=40) as front:
        held = [connect(front.port, "127.0.0.2") for _ in range(30)]
        until(lambda: len(select.select(held, [], [], 0)[0]) == 10, 20, "HAProxy closes ten of them")
        assert front.predict().status_code == 200
        for connection in held:
            connection.close()


# --- the configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "asked"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "127.0.0.1"), ("192.0.2.7", "192.0.2.7")]
)
def test_servers_of_the_node_are_asked_at_the_address_where_serve_listens(tmp_path, host, asked):
    """Replicas listen at `http.host`; a service at ::1 answered 500 to everything."""
    good, control, fallback = Backend("good"), Backend("control"), Backend("fallback")
    try:
        config = haproxy.adapt(render(tmp_path, [good], control, fallback, 200, 8000, host).read_text())
    finally:
        for backend in (good, control, fallback):
            backend.close()
    servers = re.findall(r"^    server \S+ (\S+):\d+ ", config, re.MULTILINE)
    assert len(servers) >= 4
    assert set(servers) == {asked}


def test_a_template_that_ray_has_changed_is_refused_by_name():
    with pytest.raises(haproxy.UnknownTemplate, match=r"0 places match '\^    retry-on"):
        haproxy.adapt("global\n    maxconn 4096\ndefaults\n    mode http\nfrontend http_frontend\n    bind *:8000\n")


def test_additions_are_made_once(tmp_path):
    from tests.support.haproxy import render

    replica, control = Backend("one"), Backend("control")
    config = render(tmp_path, [replica], control, control, maxconn=100, port=1).read_text()
    adapted = haproxy.adapt(config)
    assert haproxy.adapt(adapted) == adapted != config
    assert ("log-format-sd" in config, "log-format-sd" in adapted) == (True, False), "no line for each request"
    assert adapted.count("option dontlog-normal") == 1
    replica.close()
    control.close()
