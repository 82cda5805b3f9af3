"""What an evaluation of the classifier says beside the loss: micro and macro F1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from altgrad_cli.metrics.verdict import f1
from altgrad_cli.subjects.subject import Batch


def label_scores(batches: Sequence[Batch], outputs: Sequence[Tensor]) -> dict[str, float]:
    """Micro and macro F1 over the documents of ``batches``, each counted once however often it was drawn.

    A label is predicted where the sigmoid of its logit is at least 0.5. Macro is the mean over all labels; a
    label that no document has and that is predicted for none has F1 0, as by scikit-learn's
    ``zero_division=0``. Both are NaN where a logit is.
    """
    rows = {number: row for row, number in enumerate(n for batch in batches for n in batch.offsets)}
    once = list(rows.values())
    logits = torch.cat(list(outputs))[once]
    truth = torch.cat([batch.y for batch in batches])[once].to(logits.device) > 0
    if bool(logits.isnan().any()):
        return {"micro_f1": math.nan, "macro_f1": math.nan}
    predicted = logits >= 0
    hits, false, missed = (
        found.sum(0).tolist() for found in (predicted & truth, predicted & ~truth, ~predicted & truth)
    )
    each = [f1(*counts) for counts in zip(hits, false, missed, strict=True)]
    return {"micro_f1": f1(sum(hits), sum(false), sum(missed)), "macro_f1": sum(each) / len(each)}
