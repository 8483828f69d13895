"""The process group of several workers, over the network that Ray's nodes use.

Knows Ray Train's backend for torch; knows nothing of the training.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Environment variables that name the interface to gloo and to NCCL (PyTorch's and NCCL's manuals)."""


class NodeNetwork(TorchConfig):  # type: ignore[misc]  # Ray has no types
    """Ray's configuration of torch, in which workers listen at the address by which Ray knows their node.

    gloo alone would listen at the address of the host's name, which Debian and Ubuntu map to the loopback interface: workers
    of other nodes then connect to themselves. NCCL alone takes the first interface that it finds.
    """

    @property
    def backend_cls(self) -> type:
        """The backend: Ray's own, after each worker has found its interface."""
        ray_backend = super().backend_cls

        class Backend(ray_backend):  # type: ignore[misc, valid-type]  # Ray's class has no public name
            def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                worker_group.execute(use_node_interface)
                super().on_start(worker_group, backend_config)

        return Backend


def use_node_interface() -> None:
    """Have gloo and NCCL use the interface of this node's address, unless the environment names one."""
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        for variable in INTERFACE_VARIABLES:
            os.environ.setdefault(variable, interface)


def interface_of(address: str) -> str | None:
    """Return the network interface that has ``address``; None if none has, as behind a router that translates addresses."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in addresses):  # an IPv6 address may end in %interface
            return name
    return None
