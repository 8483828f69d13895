"""The process group of several workers, over the network that Ray's nodes use.

Knows Ray Train's backend for torch; knows nothing of the training.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


class _Backend(_TorchBackend):  # type: ignore[misc]  # Ray has no types
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_node_interface)
        super().on_start(worker_group, backend_config)


class NodeTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray's configuration of torch, in which workers connect over the interface of the address by which Ray knows their node.

    gloo alone would take the address of the host's name, which Debian and Ubuntu map to the loopback interface: workers of
    other nodes then connect to themselves. NCCL alone chooses among the interfaces that it finds, whatever Ray uses.
    """

    @property
    def backend_cls(self) -> type[_Backend]:
        """Ray's backend, after each worker has found its interface."""
        return _Backend


def use_node_interface() -> None:
    """Have gloo and NCCL use the interface of this node's address, unless the environment names one."""
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # without =, NCCL takes it for the beginning of a name


def interface_of(address: str) -> str | None:
    """Return the network interface that has ``address``; None if none has, as behind a router that translates addresses."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in addresses):  # an IPv6 address may end in %interface
            return name
    return None
