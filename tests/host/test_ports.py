"""The port of the service: taken ones are told with their holder, and one that is about to be free is waited for."""

from __future__ import annotations

import os
import socket
import threading

import psutil
import pytest

from baton.errors import Conflict
from services.host.ports import require_free


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_port_that_somebody_listens_on_is_refused_with_its_name(listening):
    port = listening.getsockname()[1]
    with pytest.raises(Conflict, match=rf"port {port} is taken by .* \(pid {os.getpid()}\); stop it, or choose another"):
        require_free("127.0.0.1", port)


def test_a_port_whose_process_has_just_ended_is_waited_for(listening, monkeypatch):
    """The threads of a process that was killed close its sockets a moment after it counts as ended."""
    port = listening.getsockname()[1]
    looks: list[str] = []

    def nobody(kind: str) -> list[object]:
        looks.append(kind)
        if len(looks) == 3:
            threading.Thread(target=listening.close).start()
        return []

    monkeypatch.setattr(psutil, "net_connections", nobody)
    require_free("127.0.0.1", port)
    assert len(looks) >= 3


def test_a_port_that_a_process_of_another_user_holds_is_refused_after_a_moment(listening, monkeypatch):
    monkeypatch.setattr(psutil, "net_connections", lambda kind: [])
    monkeypatch.setattr("services.host.ports.CLOSING_SECONDS", 0.0)
    with pytest.raises(Conflict, match="is taken by another process"):
        require_free("127.0.0.1", listening.getsockname()[1])
