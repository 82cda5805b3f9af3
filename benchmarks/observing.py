"""What ``observe`` costs a loop of one's own, a GPT-2 of Transformers (``--only observing``)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from altgrad_cli import observe
from benchmarks.section import Claim, Options, Section, table
from benchmarks.timing import Call, interleave

LIMIT = 1.4
PLAIN = "the loop alone"
CONTESTANTS: Mapping[str, Mapping[str, object] | None] = {
    PLAIN: None,
    "observed, nothing rounded": {"regime": "fp32"},
    "observed, E5M2 standard": {},
    "observed, E5M2 standard, without capture": {"capture": False},
    "observed, E5M2 uniform": {"regime": "uniform"},
}
"""All monitors are on; without a closure there is no shadow."""


def section(options: Options) -> Section:
    """The ratios of observed steps to those of the loop alone."""
    layers, width, batch, time = (1, 32, 2, 16) if options.quick else (6, 384, 12, 256)
    rounds = 2 if options.quick else 9
    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Call] = {}
        closes: list[Callable[[], None]] = []
        for number, (name, asked) in enumerate(CONTESTANTS.items()):
            torch.manual_seed(1)
            config = GPT2Config(
                n_layer=layers,
                n_head=width // 16 if options.quick else 6,
                n_embd=width,
                n_positions=time,
                vocab_size=256,
                use_cache=False,
                bos_token_id=None,
                eos_token_id=None,
            )
            model = GPT2LMHeadModel(config).train()
            optimizer = torch.optim.AdamW(model.parameters(), 6e-4)
            if asked is not None:
                lab = observe(model, optimizer, run_dir=Path(folder) / str(number), **asked)  # type: ignore[arg-type]
                closes.append(lab.close)
            calls[name] = partial(_step, model, optimizer, torch.randint(256, (batch, time)))
        size = sum(each.numel() for each in model.parameters()) / 1e6
        found = interleave(calls, rounds=rounds)
        for close in closes:
            close()
    rows = []
    for name, measured in found.items():
        low, middle, high = measured.ratio(found[PLAIN])
        rows.append((name, f"{1e3 * measured.median:.0f} ms", f"{middle:.2f}", f"{low:.2f} to {high:.2f}"))
    what = "a tiny model" if options.quick else f"GPT-2, {size:.1f} M parameters, batch {batch} x {time}"
    lines = [
        f"## A loop of one's own, observed: {what}",
        "",
        "Forward, backward and AdamW; every monitor but the shadow, events written, no checkpoint.",
        "",
        *table(("loop", "a step, median", "ratio", "quartiles"), rows),
        "",
    ]
    claims = [
        Claim(f"a step of {name}, to the loop alone", found[name].ratio(found[PLAIN])[1], LIMIT)
        for name in list(CONTESTANTS)[1:]
    ]
    return Section(lines=tuple(lines), claims=tuple(claims))


def _step(model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> float:
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
