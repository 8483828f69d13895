"""The interface through which workers talk to each other."""

from __future__ import annotations

import os

import pytest
import ray

from training.fit import network


def test_the_interface_of_an_address_is_the_one_that_has_it() -> None:
    assert network.interface_of("127.0.0.1") == "lo"
    assert network.interface_of("192.0.2.1") is None  # kept for documentation (RFC 5737): no machine has it


@pytest.mark.parametrize(("address", "expected"), [("127.0.0.1", "lo"), ("192.0.2.1", None)])
def test_a_worker_uses_the_interface_of_its_node_unless_its_environment_names_one(
    monkeypatch: pytest.MonkeyPatch, address: str, expected: str | None
) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is removed again afterwards
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    network.use_node_interface()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == expected
    assert os.environ["NCCL_SOCKET_IFNAME"] == "ib0"
