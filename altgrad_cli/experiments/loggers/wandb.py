"""placeholder"""

from __future__ import annotations


def wandb_listeners(config, directory, *, warn):
    return []
