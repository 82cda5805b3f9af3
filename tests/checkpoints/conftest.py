"""The tiny run of the training tests serves here too."""

from tests.training.conftest import _shared_cache, corpus_cache, tiny

__all__ = ["_shared_cache", "corpus_cache", "tiny"]
