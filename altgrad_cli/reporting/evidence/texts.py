"""Longer texts that a report quotes and that are compared again when it is verified."""

from __future__ import annotations

import yaml

from altgrad_cli.reporting.evidence.columns import RunLog


def configuration_text(log: RunLog) -> str:
    """The resolved configuration of a run as YAML, in the order of its keys."""
    return yaml.safe_dump(dict(log.record.config), sort_keys=False, allow_unicode=True, width=100).rstrip()


TEXTS = {"configuration": configuration_text}
"""By the word that follows the run in the source of a verbatim block."""
