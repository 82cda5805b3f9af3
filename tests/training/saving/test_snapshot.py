"""A resumed run is the straight run, bit for bit; a failing capture writes what it can."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from altgrad_cli.checkpoints.file import VerifiedCheckpoint, content_hash, read_checkpoint, write_checkpoint
from altgrad_cli.config.loading import from_plain
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import CheckpointError
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import CheckpointSaved, Event, StepCompleted
from altgrad_cli.training.faults import Faults
from altgrad_cli.training.saving import archive
from altgrad_cli.training.saving.archive import Archive, PendingStep
from altgrad_cli.training.saving.snapshot import grid_changed, restore_snapshot, take_snapshot
from altgrad_cli.training.step import compute_step
from altgrad_cli.training.watch.monitors import Monitors
from tests.training.states import gpt_state, random_batch

Tiny = Callable[..., TrainConfig]
STEPS = 6
REGIMES = ("fp32", "bf16", "standard", "uniform", "frozen", "postln")
RECIPES = ("none", "amax", "delayed")


def straight(config: TrainConfig, folder: Path) -> tuple[list[Event], dict[int, Path]]:
    """All events of a run, and a copy of its regular checkpoint after every step."""
    events, kept = [], {}
    for event in train(config, run_dir=folder):
        events.append(event)
        if isinstance(event, CheckpointSaved) and event.reason == "regular":
            assert event.path is not None, event.problem
            kept[event.step] = folder / f"copy_{event.step}.pt"
            shutil.copy(folder / "checkpoints" / Path(event.path).name, kept[event.step])
    return events, kept


def metrics(events: list[Event], after: int) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in event.metrics.items() if key != "tokens_per_second"}
        for event in events
        if isinstance(event, StepCompleted) and event.step > after
    ]


def assert_resumes(config: TrainConfig, folder: Path, steps: range | list[int]) -> None:
    whole, kept = straight(config, folder / "straight")
    last = max(kept)
    for step in steps:
        again = folder / f"resumed_{step}"
        rest = list(train(config, run_dir=again, resume_from=VerifiedCheckpoint.read(kept[step])))
        # repr: NaN equals itself, and 0.0 is not -0.0
        assert repr(metrics(rest, step)) == repr(metrics(whole, step)), step
        mine = read_checkpoint(again / "checkpoints" / f"step_{last:06d}.pt")
        theirs = read_checkpoint(kept[last])
        assert content_hash(mine) == content_hash(theirs), [k for k in mine if differs(mine[k], theirs[k])]


def differs(one: Any, other: Any) -> bool:
    return content_hash({"x": one}) != content_hash({"x": other})


def config_for(tiny: Tiny, regime: str, recipe: str, rounding: str, *more: str) -> TrainConfig:
    return tiny(
        f"max_steps={STEPS}",
        "fp8_format=E4M3",
        f"precision.regime={regime}",
        f"precision.scaling.recipe={recipe}",
        f"precision.rounding={rounding}",
        "model.dropout=0.1",
        "runtime.checkpoint_interval=1",
        *more,
    )


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_is_the_straight_run(tiny: Tiny, tmp_path: Path, regime: str, recipe: str) -> None:
    step = 1 + (REGIMES.index(regime) + RECIPES.index(recipe)) % (STEPS - 1)
    assert_resumes(config_for(tiny, regime, recipe, "stochastic_all"), tmp_path, [step])


@pytest.mark.parametrize("regime", ["uniform", "standard"])
def test_a_resumed_run_in_blocks_is_the_straight_run(tiny: Tiny, tmp_path: Path, regime: str) -> None:
    config = config_for(tiny, regime, "delayed", "stochastic_all", "fp8_format=MXFP4")
    assert_resumes(config, tmp_path, [3])


@pytest.mark.campaign
@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "stochastic_all"])
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_resuming_at_every_step(tiny: Tiny, tmp_path: Path, regime: str, recipe: str, rounding: str) -> None:
    assert_resumes(config_for(tiny, regime, recipe, rounding), tmp_path, range(1, STEPS))


@pytest.mark.parametrize("step", [1, 3, 4, 5])
def test_a_shift_survives_a_resume(tiny: Tiny, tmp_path: Path, step: int) -> None:
    faults = ",".join(f"nan@{n}:blocks.0.mlp.c_fc:gradients" for n in (2, 3, 4))
    config = config_for(
        tiny,
        "uniform",
        "delayed",
        "nearest",
        "fp8_format=E7M0",
        "enable_emergency_shift=true",
        f"inject={faults}",
    )
    assert_resumes(config, tmp_path, [step])
    final = read_checkpoint(tmp_path / "straight" / f"copy_{STEPS}.pt")
    assert len(final["formats"]) == 2  # the shift did happen


def test_a_snapshot_restores_every_number(tiny: Tiny) -> None:
    config = config_for(tiny, "uniform", "delayed", "stochastic_all")
    state = gpt_state(config)
    for row in state.scales.histories:
        for history in row:
            if history is not None:
                history.values = [0.5, 0.25]
    state.step, state.optimizer.steps = 5, 4
    state.optimizer.slots["m"].uniform_()
    state.optimizer.slots["v"].uniform_()
    torch.rand(7, generator=state.streams["rounding_update"])
    taken = take_snapshot(state, {"counter": 3}, corpus={"fingerprint": "x"})
    other = gpt_state(from_plain(taken["config"]))
    restore_snapshot(other, taken)
    again = take_snapshot(other, {"counter": 3}, corpus={"fingerprint": "x"})
    assert content_hash(again) == content_hash(taken)


def test_a_setting_newer_than_the_checkpoint_has_its_default(tiny: Tiny) -> None:
    state = gpt_state(tiny())
    taken = take_snapshot(state, {})
    del taken["config"]["optimizer"]["rule"], taken["config"]["precision"]["overflow"]
    assert not grid_changed(state.config, taken)
    restore_snapshot(gpt_state(tiny()), taken)
    assert grid_changed(tiny("precision.overflow=ieee", "fp8_format=E5M2"), taken)


def test_the_snapshot_owns_its_memory(tiny: Tiny) -> None:
    state = gpt_state(tiny())
    taken = take_snapshot(state, {})
    before = content_hash(taken)
    state.flat.values.zero_()
    state.optimizer.slots["m"].fill_(1.0)
    assert content_hash(taken) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda payload: payload["weights"].pop("wte.weight"),
        lambda payload: payload["weights"].update({"wte.weight": torch.zeros(3, 3)}),
        lambda payload: payload["optimizer"].pop("m"),
        lambda payload: payload.pop("streams"),
        lambda payload: payload["streams"].update({"dropout": torch.zeros(3, dtype=torch.uint8)}),
        lambda payload: payload["streams"].update({"another": payload["streams"]["data"]}),
        lambda payload: payload["quantizers"].pop(),
        lambda payload: payload["quantizers"][0].update({"name": "other"}),
        lambda payload: payload["quantizers"][0]["roles"].pop("activations"),
        lambda payload: payload["stored_weights"].clear(),
        lambda payload: payload.update({"formats": []}),
        lambda payload: payload.update({"step": "many"}),
    ],
)
def test_a_payload_that_lacks_a_part_is_refused(tiny: Tiny, damage: Callable[[dict[str, Any]], Any]) -> None:
    config = config_for(tiny, "uniform", "delayed", "nearest")
    payload = take_snapshot(gpt_state(config), {})
    damage(payload)
    with pytest.raises(CheckpointError):
        restore_snapshot(gpt_state(config), payload)


def test_stored_codes_are_the_weights(tiny: Tiny) -> None:
    from altgrad_cli.formats import parse_format
    from altgrad_cli.rounding.grid import stored_grid
    from altgrad_cli.rounding.quantize import dequantize

    for chosen in ("E4M3", "MXFP8_E5M2", "E3M4@5x7"):
        config = config_for(tiny, "uniform", "delayed", "nearest", f"fp8_format={chosen}")
        payload = take_snapshot(gpt_state(config), {})
        assert len(payload["stored_weights"]) == 8
        for name, stored in payload["stored_weights"].items():
            assert stored["codes"].dtype == torch.uint8
            assert stored["format"] == chosen
            grid, scales = stored_grid(parse_format(chosen)), torch.as_tensor(stored["scale"])
            spread = grid.spread(scales.double(), stored["codes"].shape)
            back = dequantize(stored["codes"], chosen, spread)
            assert torch.equal(back, payload["weights"][f"{name}.weight"])


def capture(tiny: Tiny, folder: Path, times: int = 1) -> list[Path]:
    """The forensic checkpoints of one step, asked for so many times."""
    config = tiny()
    state = gpt_state(config)
    pending = PendingStep(compute_step(state, random_batch()), state.streams.state_dict())
    monitors, kept = Monitors(config, state), Archive(folder, Faults((), config.seed), {})
    monitors.history.append({"step": 0})
    saved = [kept.save_anomaly(state, monitors, pending, "requested") for _ in range(times)]
    return [folder / str(event.path) for event in saved]


def test_a_failing_capture_writes_the_rest_and_says_what_is_missing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("the trace broke")

    monkeypatch.setattr(archive, "trace_step", broken)
    monkeypatch.setattr(archive, "batch_to_plain", lambda batch: object())
    monkeypatch.setattr(Monitors, "state_dict", broken)
    (path,) = capture(tiny, tmp_path)
    payload = read_checkpoint(path)
    assert payload["missing"]["trace"] == "ZeroDivisionError: the trace broke"
    assert set(payload["missing"]) == {"trace", "monitors", "batch"}
    assert payload["history"] == [{"step": 0}]
    assert "weights" in payload and "gradient" in payload


def test_anomalies_are_never_overwritten(tiny: Tiny, tmp_path: Path) -> None:
    assert [path.name for path in capture(tiny, tmp_path, times=3)] == [
        "anomaly_step_1.pt",
        "anomaly_step_1_2.pt",
        "anomaly_step_1_3.pt",
    ]


def test_a_nan_weight_is_saved_where_the_grid_has_no_code_for_it(tiny: Tiny, tmp_path: Path) -> None:
    state = gpt_state(tiny("precision.regime=uniform", "fp8_format=E3M4"))
    state.flat.values[0] = torch.nan
    write_checkpoint(tmp_path / "x.pt", take_snapshot(state, {}))
    payload = read_checkpoint(tmp_path / "x.pt")
    assert payload["stored_weights"]["blocks.0.attn.c_attn"]["codes"] is None
    assert payload["weights"]["blocks.0.attn.c_attn.weight"].isnan().sum() == 1


CHANGES = {
    "another format": ("fp8_format=E5M2",),
    "a fallback for two layers": ('precision.rules=[{pattern: "blocks.0.mlp.*", format: BF16}]',),
    "float32 masters": ("precision.regime=standard",),
    "nothing rounded": ("precision.regime=fp32",),
    "bf16": ("precision.regime=bf16",),
    "another recipe": ("precision.scaling.recipe=amax",),
    "a wider margin": ("precision.scaling.margin=4",),
    "stochastic rounding": ("precision.rounding=stochastic",),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("regime", ["uniform", "standard"])
def test_a_run_goes_on_with_another_precision(tiny: Tiny, tmp_path: Path, name: str, regime: str) -> None:
    config = config_for(tiny, regime, "delayed", "nearest", "fp8_format=E7M0")
    _, kept = straight(config, tmp_path / "before")
    changed = config_for(tiny, regime, "delayed", "nearest", "fp8_format=E7M0", *CHANGES[name])
    rest = list(train(changed, run_dir=tmp_path / "after", resume_from=VerifiedCheckpoint.read(kept[3])))
    assert [event.step for event in rest if isinstance(event, StepCompleted)] == [4, 5, 6]
    payload = read_checkpoint(tmp_path / "after" / "checkpoints" / "step_000006.pt")
    new_name = {"another format": "E5M2", "bf16": "BF16"}.get(name)
    expected = [[0, "E7M0"]] + ([[3, new_name]] if new_name else [])
    assert payload["formats"] == expected
    assert payload["format"] == (new_name or "E7M0")
    if name == "another format" and regime == "uniform":
        assert {entry["format"] for entry in payload["stored_weights"].values()} == {"E5M2"}
    if name == "a fallback for two layers" and regime == "uniform":
        assert len(payload["stored_weights"]) == 6
    if name in ("float32 masters", "nothing rounded", "bf16"):
        assert payload["stored_weights"] == {}


def test_the_weights_go_along_to_another_grid(tiny: Tiny) -> None:
    """Masters taken onto a grid: the oracle is the public quantize of what was saved."""
    from altgrad_cli.formats import parse_format
    from altgrad_cli.rounding.quantize import quantize

    payload = take_snapshot(gpt_state(config_for(tiny, "standard", "delayed", "nearest")), {})
    state = gpt_state(config_for(tiny, "uniform", "delayed", "nearest", "seed=7"))
    restore_snapshot(state, payload)
    for index, (layer, _) in enumerate(state.layers[:-1]):
        saved, scale = payload["weights"][f"{layer}.weight"], state.stored_scales[index]
        assert scale is not None
        weight = dict(zip(state.flat.names, state.flat.views(state.flat.values), strict=True))[
            f"{layer}.weight"
        ]
        assert torch.equal(weight, quantize(saved, parse_format("E4M3"), scale))
