"""Runs as they would have been recorded: logs written through the engine's own events, with known values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from altgrad_cli.config.loading import resolve
from altgrad_cli.config.precision import PrecisionConfig
from altgrad_cli.config.run import OptimizerConfig, RuntimeConfig, TrainConfig
from altgrad_cli.formats import parse_format
from altgrad_cli.training.events import (
    Alert,
    CheckpointSaved,
    Evaluated,
    Event,
    InterventionApplied,
    RunEnded,
    RunStarted,
    StepCompleted,
    event_to_json,
)

LAYERS = (
    "blocks.0.attn.c_attn",
    "blocks.0.attn.c_proj",
    "blocks.0.mlp.c_fc",
    "blocks.0.mlp.c_proj",
    "lm_head",
)
STEPS, INTERVAL = 120, 20
ENVIRONMENT = {"revision": "abc1234", "torch": "2.13.0", "device": "cpu", "threads": 1}
CORPUS = {"source": "embedded", "tokenizer": "bytes", "fingerprint": "feedc0de"}


def config(regime: str = "uniform", format_name: str = "E7M0", seed: int = 42, **changes: Any) -> TrainConfig:
    """A configuration of a recorded run; ``rounding`` and ``rules`` go to its precision."""
    precision = PrecisionConfig(
        regime=regime,  # type: ignore[arg-type]
        **{key: changes.pop(key) for key in ("rounding", "roles", "rules", "scaling") if key in changes},
    )
    return TrainConfig(
        seed=seed,
        fp8_format=format_name,
        max_steps=STEPS,
        diagnostic_interval=INTERVAL,
        precision=precision,
        optimizer=OptimizerConfig(warmup_steps=10),
        runtime=RuntimeConfig(evaluation_interval=INTERVAL),
        **changes,
    )


def record(folder: Path, run_config: TrainConfig, **story: Any) -> Path:
    """Write the log of one run whose loss falls from 5.5 towards ``floor``; returns its folder.

    Values vary by step and layer by a seeded generator, so that no two are equal by accident. ``story`` is
    what ``_events`` takes.
    """
    folder.mkdir(parents=True)
    lines = (json.dumps(event_to_json(event)) for event in _events(run_config, **story))
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def _events(
    run_config: TrainConfig,
    *,
    floor: float,
    stall: float | None = None,
    transfer: float | None = None,
    underflow: float = 0.001,
    steps: int = STEPS,
    nonfinite_at: Sequence[int] = (),
    collapse: Mapping[str, Any] | None = None,
    outcome: str | None = None,
    interventions: Sequence[tuple[int, str, Mapping[str, Any]]] = (),
    formats: Sequence[tuple[int, str]] | None = None,
    extra_layer_metrics: int = 0,
) -> Iterator[Event]:
    random = np.random.default_rng(run_config.seed)
    stored = stall is not None
    yield RunStarted(
        step=0,
        config=resolve(run_config),
        layers=LAYERS,
        precision=[],
        init_hash="c0ffee",
        parameters=1234,
        corpus=CORPUS,
        predicted_stall={
            "long_run": 0.9, "first_step": 0.95, "learning_rate": 6e-4, "first_learning_rate": 6e-5,
        } if stored else None,
        environment=ENVIRONMENT,
        injections=list(run_config.inject),
    )  # fmt: skip
    for step in range(1, steps + 1):
        bad = step in nonfinite_at
        noise = random.uniform(-0.02, 0.02, size=8)
        loss = math.nan if bad else floor + (5.5 - floor) * math.exp(-step / 25) + noise[0]
        rate = 0.003 + noise[1] / 10
        metrics: dict[str, Any] = {
            "loss": loss,
            "learning_rate": 6e-4,
            "gradient_norm": None if bad else 1 + noise[2],
            "gradient_sparsity": None if bad else 0.01 + noise[3] / 10,
            "gradient_cosine": None if bad else 0.97 + noise[4] / 10,
            "gradient_sqnr": 12.5 + noise[5],
            "overflow_rate/gradients": 0.0 if step % 3 else rate / 100,
            "overflow_rate/activations": 0.0,
            "underflow_rate/gradients": underflow,
            "underflow_rate/activations": underflow / 2,
        }
        layers: dict[str, list[Any]] = {
            "gradient_sparsity": list(0.01 + random.uniform(0, 0.01, len(LAYERS))),
            "gradient_norm": list(1 + random.uniform(0, 0.1, len(LAYERS))),
            "gradient_cosine": [
                math.nan if bad and i == 0 else 0.97 + noise[4] / 10 for i in range(len(LAYERS))
            ],
            "gradient_sqnr": list(12 + random.uniform(0, 1, len(LAYERS))),
            "dead_neurons": [int(i == 2) for i in range(len(LAYERS))],
            "overflow_rate/gradients": [rate / 50 if i == 1 else 0.0 for i in range(len(LAYERS))],
            "underflow_rate/gradients": [underflow * (1 + i) for i in range(len(LAYERS))],
        }
        if stored:
            metrics |= {
                "bit_stall_rate": stall + noise[6] / 100,  # type: ignore[operator]
                "update_transfer": transfer + noise[7] / 100,  # type: ignore[operator]
                "zero_share/stored_weights": 0.02,
                "codes_used/stored_weights": 0.3 + noise[6],
                "code_entropy/stored_weights": 0.55,
            }
            by_layer = [min(1.0, stall + 0.002 * i) for i in range(len(LAYERS) - 1)]  # type: ignore[operator]
            layers |= {
                "bit_stall_rate": [*by_layer, None],
                "zero_update_fraction": [*by_layer, None],
                "update_transfer": [*(transfer + 0.001 * i for i in range(len(LAYERS) - 1)), None],  # type: ignore[operator]
                "codes_used/stored_weights": [*(0.2 + 0.1 * (i % 4) for i in range(len(LAYERS) - 1)), None],
            }
        layers |= {f"extra_{i}": list(random.uniform(size=len(LAYERS))) for i in range(extra_layer_metrics)}
        histograms = {}
        if step % INTERVAL == 0:
            if stored:
                layers["persistent_stall_rate"] = [*(0.1 * (i % 4 + 1) for i in range(len(LAYERS) - 1)), None]
                metrics["persistent_stall_rate"] = 0.25
            ranks = [120.0 - 0.1 * (step // INTERVAL) ** 2 * (i + 1) for i in range(len(LAYERS))]
            layers |= {"effective_rank": ranks, "stable_rank": [rank / 4 for rank in ranks]}
            layers |= {"spectral_norm": [60 / rank for rank in ranks]}
            metrics["effective_rank"] = sum(ranks[:-1]) / len(ranks[:-1])
            codes = 2 ** parse_format(run_config.fp8_format).width + 1
            counts = random.integers(0, 50, size=codes)
            histograms = {"gradients": [counts.tolist() for _ in LAYERS[:-1]] + [[]]}
        if step in nonfinite_at[:1]:  # written before the update
            path = f"checkpoints/anomaly_step_{step}.pt"
            yield CheckpointSaved(step=step - 1, path=path, reason="nonfinite")
        yield StepCompleted(
            step=step,
            metrics=metrics,
            layers=layers,
            committed=not bad,
            format=run_config.fp8_format,
            histograms=histograms,
        )
        if step == 30:
            yield Alert(
                step=step,
                name="stall",
                metric="bit_stall_rate",
                layer=None,
                value=0.9,
                threshold=0.5,
                state="raised",
            )
        yield from (
            InterventionApplied(step=step, name=name, details=details)
            for at, name, details in interventions
            if at == step
        )
        if step % INTERVAL == 0:
            value = floor + (5.5 - floor) * math.exp(-step / 25)
            yield Evaluated(
                step=step, validation_loss=value, validation_loss_master=None, perplexity=math.exp(value)
            )
    if outcome != "unfinished":
        yield RunEnded(
            step=steps,
            outcome=outcome or ("collapsed" if collapse else "completed"),
            reason=f"{steps} steps" if not collapse else f"{collapse['class']} from step {collapse['step']}",
            collapse=collapse,
            formats=list(formats or [(0, run_config.fp8_format)]),
        )


def record_sweep(folder: Path, seeds: Sequence[int] = (42,)) -> Path:
    """A sweep with controls, a control format that trains, E7M0 that stalls and is rescued, and a NaN."""
    rows: list[dict[str, Any]] = []

    def arm(
        name: str, kind: str, arm_config: TrainConfig, retry_of: str | None = None, **values: Any
    ) -> None:
        record(folder / name, arm_config, **values)
        rows.append({"name": name, "kind": kind, "retry_of": retry_of, "reason": ""})

    for seed in seeds:
        tail = f"-seed{seed}" if len(seeds) > 1 else ""
        shift = (seed - 42) / 100
        arm(f"fp32{tail}", "control", config("fp32", "E5M2", seed), floor=2.0 + shift)
        arm(f"frozen{tail}", "control", config("frozen", "E5M2", seed), floor=3.0 + shift)
        arm(
            f"e5m2-uniform{tail}",
            "format",
            config("uniform", "E5M2", seed),
            floor=2.05 + 2 * shift,
            stall=0.8,
            transfer=0.7,
        )
        arm(
            f"e7m0-uniform{tail}", "format", config("uniform", "E7M0", seed), floor=2.9 + shift, stall=0.995,
            transfer=0.006, collapse={"class": "stall_collapse", "step": 31},
        )  # fmt: skip
    seed, tail = seeds[0], f"-seed{seeds[0]}" if len(seeds) > 1 else ""
    arm(
        f"e3m4-uniform{tail}", "format", config("uniform", "E3M4", seed), floor=2.4, stall=0.7, transfer=0.5,
        steps=70, nonfinite_at=(69, 70), collapse={"class": "nonfinite", "step": 69},
    )  # fmt: skip
    base = f"e7m0-uniform{tail}"
    arm(
        f"{base}-rescue-stochastic", "rescue", config("uniform", "E7M0", seed, rounding="stochastic"), base,
        floor=2.1, stall=0.9, transfer=1.0,
    )  # fmt: skip
    arm(
        f"{base}-only-wa",
        "attribution",
        config("uniform", "E7M0", seed, roles=("weights", "activations")),
        base,
        floor=2.1,
    )
    arm(f"{base}-only-wag", "attribution", config("standard", "E7M0", seed), base, floor=2.15)
    arm(
        f"{base}-intervened", "intervened",
        config("uniform", "E7M0", seed, enable_emergency_shift=True), base,
        floor=2.3, stall=0.9, transfer=0.1, formats=[(0, "E7M0"), (40, "E5M2")],
        interventions=[(40, "emergency_shift", {"from": "E7M0", "to": "E5M2", "trigger": "stall"})],
    )  # fmt: skip
    base_config = config("uniform", "E5M2")
    spec = {
        "base": resolve(replace(base_config, max_steps=STEPS)), "order": ["E5M2", "E7M0", "E3M4"],
        "seeds": list(seeds),
        "axes": [], "retries": True, "with_interventions": True, "attribute": True, "skip_equivalent": False,
    }  # fmt: skip
    document = {"schema": "altgrad.sweep/1", "state": "finished", "spec": spec, "arms": rows}
    (folder / "sweep.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def raw_steps(run_dir: Path) -> list[dict[str, Any]]:
    """The step lines of a log, parsed by nothing but ``json``: what the tests' plain loops read."""
    lines = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "step"]
