"""A Ray cluster of two nodes with one core each, both on this machine; starting it takes some seconds."""

from __future__ import annotations

import os
from typing import Any

_SMALL = {"num_cpus": 1, "object_store_memory": 80 << 20}


class TwoNodes:
    """``shutdown`` it in the end."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(
            initialize_head=True, head_node_args={**_SMALL, "include_dashboard": False}
        )
        self.address: str = self._cluster.address
        self.add_second()

    @property
    def second_id(self) -> str:
        return str(self._second.node_id)

    def add_second(self) -> None:
        self._second = self._cluster.add_node(**_SMALL)

    def remove_second(self) -> None:
        """As a machine that loses its power: nothing on it is asked to end."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def shutdown(self) -> None:
        self._cluster.shutdown()
