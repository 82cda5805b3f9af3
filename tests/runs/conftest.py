"""The logs that the sweep tests write serve here too."""

from tests.sweeps.conftest import corpus_file, tiny, write_log

__all__ = ["corpus_file", "tiny", "write_log"]
