"""What a training step costs on a device, to one of plain PyTorch: eager and compiled, as a Markdown table.

Contestants take a step in turn, so that whatever else the machine does slows all alike; every step reads its
loss, which waits for the device. Quoted are ratios of medians; the first steps, which build and compile, are
apart.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch

from altgrad_cli.config.loading import load_config
from altgrad_cli.subjects.built_in import load_subject
from altgrad_cli.subjects.gpt.model import cross_entropy
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import StepCompleted

Step = Callable[[], float]
_WARM = 3
_TINY = ("model.n_layer=1", "model.n_head=1", "model.n_embd=16", "model.block_size=16", "batch_size=2")
_COMMON = ("runtime.evaluation_interval=1000000", "runtime.evaluation_batches=1", "max_steps=1000000")
_UNMEASURED = ("monitors.enabled=false",)
_MEASURED = ("use_shadow=false",)


def plain(settings: tuple[str, ...], device: str, *, compiled: bool) -> Step:
    """The same network and batches, torch's own AdamW (fused where there is a GPU)."""
    config = load_config("gpu/base", settings)
    subject = load_subject(config)
    assert subject.train is not None
    draw = subject.train
    model = subject.build(torch.Generator().manual_seed(1)).to(device)
    call = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, fused=device == "cuda")
    generator = torch.Generator().manual_seed(2)

    def step() -> float:
        batch = draw(generator)
        loss = cross_entropy(call(batch.x.to(device)), batch.y.to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def engine(settings: tuple[str, ...]) -> Step:
    """The engine's own steps, one event apart."""
    events = train(load_config("gpu/base", settings))

    def step() -> float:
        event = next(event for event in events if isinstance(event, StepCompleted))
        return float(event.metrics["loss"] or 0)

    return step


def contestants(device: str, *, tiny: bool) -> Mapping[str, Callable[[], Step]]:
    """How each is made; a tiny model is compiled for nobody."""
    size = ("data.tokenizer=bytes", f"runtime.device={device}", *_COMMON, *(_TINY if tiny else ()))
    standard = (*size, "precision.regime=standard")
    made = {
        "plain, eager": lambda: plain(size, device, compiled=False),
        "standard, eager, nothing measured": lambda: engine((*standard, *_UNMEASURED)),
        "standard, eager, measured": lambda: engine((*standard, *_MEASURED)),
    }
    if not tiny:
        made |= {
            "plain, compiled": lambda: plain(size, device, compiled=True),
            "standard, compiled, nothing measured": lambda: engine(
                (*standard, *_UNMEASURED, "runtime.compile=true")
            ),
            "standard, compiled, measured": lambda: engine((*standard, *_MEASURED, "runtime.compile=true")),
        }
    return made


def main() -> int:
    """Measure and write the table to stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", required=True)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    steps: dict[str, Step] = {}
    for name, make in contestants(options.device, tiny=options.tiny).items():
        try:
            step = make()
            for _ in range(_WARM):
                step()
            steps[name] = step
        except Exception as error:  # noqa: BLE001  a compiler that fails is named, the rest measured
            reason = (str(error).splitlines() or [""])[0]
            sys.stdout.write(f"{name}: not measured ({type(error).__name__}: {reason})\n\n")
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(each) for name, each in times.items()}
    bases = [name for name in ("plain, eager", "plain, compiled") if name in medians]
    rows = [
        ("step", "median, ms", *(f"times {base}" for base in bases)),
        ("---", *["---:"] * (1 + len(bases))),
    ]
    for name, median in medians.items():
        rows.append((name, f"{1e3 * median:.2f}", *(f"{median / medians[base]:.2f}" for base in bases)))
    sys.stdout.write("".join(f"| {' | '.join(row)} |\n" for row in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
