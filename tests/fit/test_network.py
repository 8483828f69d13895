"""The interface through which workers talk to each other."""

from __future__ import annotations

import os

import pytest
import ray

from training.fit import network


def test_the_interface_of_an_address_is_the_one_that_has_it() -> None:
    assert network.interface_of("127.0.0.1") == "lo"
    assert network.interface_of("192.0.2.1") is None  # kept for documentation (RFC 5737): no machine has it


@pytest.mark.parametrize(
    ("address", "gloo", "nccl"), [("127.0.0.1", "lo", "=lo"), ("192.0.2.1", None, None)], ids=["known", "translated"]
)
@pytest.mark.parametrize("chosen", [None, "ib0"])
def test_a_worker_uses_the_interface_of_its_node_unless_its_environment_names_one(
    monkeypatch: pytest.MonkeyPatch, address: str, gloo: str | None, nccl: str | None, chosen: str | None
) -> None:
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(variable, chosen or "")  # so that it is as before afterwards
        if chosen is None:
            monkeypatch.delenv(variable)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    network.use_node_interface()
    found = os.environ.get("GLOO_SOCKET_IFNAME"), os.environ.get("NCCL_SOCKET_IFNAME")
    assert found == ((gloo, nccl) if chosen is None else (chosen, chosen))
