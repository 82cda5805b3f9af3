"""A diagnosis as a report: its first screen, then one section a question.

Every number stands in the diagnosis, which ``--json`` prints; nothing is added to it.
"""

from __future__ import annotations

from altgrad_cli.forensics.document import Diagnosis, ForeignDiagnosis
from altgrad_cli.notation import one_line
from altgrad_cli.reporting.blocks.document import Report
from altgrad_cli.reporting.pages.diagnosis.details import details, findings, foreign_layers
from altgrad_cli.reporting.pages.diagnosis.screen import VERDICTS, foreign_screen, screen


def diagnosis_page(diagnosis: Diagnosis | ForeignDiagnosis) -> Report:
    """The whole page; a section without content is left out."""
    title = one_line(f"{VERDICTS[diagnosis.failure.kind]}  ({diagnosis.file})")
    if isinstance(diagnosis, ForeignDiagnosis):
        sections = [foreign_screen(diagnosis), foreign_layers(diagnosis), findings(diagnosis)]
    else:
        sections = [screen(diagnosis), findings(diagnosis), *details(diagnosis)]
    return Report(title, tuple(filter(None, sections)))
