"""Bodies in every packing: what is unpacked, how far, and what is refused; and who may read answers in a browser."""

from __future__ import annotations

import gzip
import json
import socket
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.replica.test_dialects import CALLS
from tests.support.dialects import Served, serve

LIMIT = 4096
ORIGIN = "https://shop.example"


@pytest.fixture(scope="module")
def served(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A classifier with a small limit, whose answers the pages of `ORIGIN` may read."""
    directory = tmp_path_factory.mktemp("bodies")
    with serve("classification", tiny_base, directory, max_body_bytes=LIMIT, cors=[ORIGIN]) as served:
        yield served


def bare_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKERS = {"gzip": gzip.compress, "X-Gzip": gzip.compress, "deflate": zlib.compress, "Deflate": bare_deflate}


def ask(served: Served, body: bytes, encoding: str | None = None, path: str = "") -> httpx.Response:
    headers = {"content-type": "application/json", **({"content-encoding": encoding} if encoding else {})}
    return httpx.post(f"{served.url}{path}", content=body, headers=headers, timeout=60)


# --- content encodings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize("path", CALLS)
def test_a_packed_body_is_answered_like_the_same_body_unpacked(served, path, encoding):
    body = json.dumps(CALLS[path]).encode()
    answer = ask(served, PACKERS[encoding](body), encoding, path)
    assert answer.status_code == 200, answer.text
    assert answer.text == ask(served, body, "identity", path).text


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_bomb_is_refused_without_being_unpacked(served, encoding):
    bomb = PACKERS[encoding](b" " * 3_000_000)
    assert len(bomb) < LIMIT
    tracemalloc.start()
    answer = ask(served, bomb, encoding)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status_code == 413
    assert answer.json() == {"error": "the body has more than 4,096 bytes when unpacked, the maximum (serving.max_body_bytes)"}
    assert peak < 1_000_000


def test_a_body_of_exactly_the_limit_is_unpacked(served):
    start = b'{"inputs": "a"}'
    body = start + b" " * (LIMIT - len(start))
    assert ask(served, gzip.compress(body, mtime=0), "gzip").status_code == 200
    assert ask(served, gzip.compress(body + b" ", mtime=0), "gzip").status_code == 413


@pytest.mark.parametrize(
    ("body", "encoding", "expected"),
    [
        (b"", "gzip", "the body is not valid gzip: its end is missing"),
        (b'{"inputs": "a"}', "gzip", "the body is not valid gzip: Error -3"),
        (gzip.compress(b'{"inputs": "a"}', mtime=0)[:-1], "gzip", "its end is missing"),
        (gzip.compress(b'{"inputs": "a"}', mtime=0) * 2, "gzip", "bytes follow its end"),
        (zlib.compress(b'{"inputs": "a"}')[:-2], "deflate", "the body is not valid deflate: its end is missing"),
        (b"\x78\x9c\xff", "deflate", "the body is not valid deflate: Error -3"),
    ],
)
def test_a_body_that_is_not_what_its_encoding_promises_is_malformed(served, body, encoding, expected):
    answer = ask(served, body, encoding)
    assert answer.status_code == 400
    assert expected in answer.json()["error"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_an_encoding_that_we_cannot_undo_is_refused_by_name(served, encoding):
    answer = ask(served, b"x", encoding)
    assert answer.status_code == 415
    assert answer.json() == {"error": f"content encoding '{encoding}'; allowed: gzip, deflate, or none"}


@pytest.mark.parametrize("path", CALLS)
def test_a_byte_order_mark_is_skipped(served, path):
    assert ask(served, b"\xef\xbb\xbf" + json.dumps(CALLS[path]).encode(), path=path).status_code == 200


# --- versions of HTTP ----------------------------------------------------------------------------------------------------


def raw(served: Served, request: bytes) -> bytes:
    """The whole answer to what is sent byte by byte as it is here."""
    where = urlsplit(served.url)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(request)
        connection.settimeout(30)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_http_1_0_is_answered(served):
    body = b'{"inputs": "a"}'
    answer = raw(served, b"POST /models/m HTTP/1.0\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    assert answer.split(b"\r\n")[0].endswith(b" 200 OK")
    assert b'"label"' in answer


def test_a_chunked_and_packed_body_is_put_together(served):
    body = gzip.compress(b'{"inputs": "a"}', mtime=0)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = b"POST /models/m HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    answer = raw(served, head + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n" + chunks)
    assert answer.startswith(b"HTTP/1.1 200 OK")


# --- browsers ------------------------------------------------------------------------------------------------------------


def test_a_page_of_an_allowed_origin_may_ask_and_read_answers_and_errors(served):
    asked = {"origin": ORIGIN, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    before = httpx.options(served.url, headers=asked)
    assert (before.status_code, before.headers["access-control-allow-origin"]) == (204, ORIGIN)
    assert "POST" in before.headers["access-control-allow-methods"]
    assert "authorization" in before.headers["access-control-allow-headers"]
    for body in (b'{"inputs": "a"}', b"{"):
        answer = httpx.post(served.url, content=body, headers={"origin": ORIGIN})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "x-model-version" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://other.example", "https://shop.example.evil", "null", ""])
def test_a_page_of_another_origin_may_not(served, origin):
    asked = {"origin": origin, "access-control-request-method": "POST"}
    for answer in (httpx.options(served.url, headers=asked), httpx.post(served.url, json={"inputs": "a"}, headers=asked)):
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["vary"] == "origin"


def test_without_the_setting_no_page_may(replicas):
    asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
    for answer in (httpx.options(replicas["ner"].url, headers=asked), httpx.get(f"{replicas['ner'].url}/info", headers=asked)):
        assert [name for name in answer.headers if name.startswith("access-control") or name == "vary"] == []
