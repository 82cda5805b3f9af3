"""The logs that the sweep tests write serve here too."""

from tests.sweeps.conftest import write_log

__all__ = ["write_log"]
