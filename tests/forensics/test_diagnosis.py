"""The whole document: healthy, partial, foreign, compared; and what it refuses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from altgrad_cli.checkpoints import file as checkpoint_file
from altgrad_cli.checkpoints.file import read_checkpoint, write_checkpoint
from altgrad_cli.config.loading import with_overrides
from altgrad_cli.errors import CheckpointError, UsageError
from altgrad_cli.forensics.diagnosis import Questions
from altgrad_cli.forensics.findings import rescuing_overrides
from altgrad_cli.forensics.layer_table import examine
from altgrad_cli.forensics.mechanism import attribute
from altgrad_cli.forensics.opened import OpenedCheckpoint, open_checkpoint
from altgrad_cli.forensics.step_again import variations
from altgrad_cli.forensics.step_again.bisection import minimal_bf16_layers
from altgrad_cli.forensics.step_again.replay_state import rebuild
from altgrad_cli.forensics.step_again.variations import Trials
from altgrad_cli.forensics.step_again.what_if import what_if
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import RunStarted, StepCompleted, event_to_json, to_json_value
from altgrad_cli.training.step import Step, compute_step
from tests.forensics.conftest import FAILING, Capture, diagnose
from tests.small import small

KEYS = {
    "file",
    "trust",
    "failure",
    "first_nonfinite",
    "mechanism",
    "layers",
    "replay",
    "counterfactuals",
    "minimal_bf16_layers",
    "findings",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy run with its log."""
    folder = tmp_path_factory.mktemp("healthy")
    config = small(*FAILING, "precision.regime=standard", "fp8_format=E3M4", "runtime.checkpoint_interval=2")
    with (folder / "events.jsonl").open("w") as log:
        for event in train(config, run_dir=folder):
            log.write(json.dumps(event_to_json(event)) + "\n")
    return folder


def test_a_healthy_checkpoint_is_said_to_be_healthy(run: Path) -> None:
    document = diagnose(run / "checkpoints" / "step_000002.pt", Questions())
    assert document.keys() >= KEYS
    assert document["failure"]["class"] == "none"
    assert document["failure"]["nonfinite_count"] == 0
    assert document["first_nonfinite"] is None
    assert document["mechanism"]["stage"] is None
    assert document["findings"][0]["text"].startswith("healthy")
    assert document["trust"]["complete"]
    assert document["next"]["command"] == f"altgrad train --resume {run}"
    assert len(document["layers"]) == 13
    assert document["batch"]["equals_corpus"] is True
    assert document["optimizer"]["sound"]
    json.dumps(to_json_value(document), allow_nan=False)


def test_the_layer_table_is_what_the_tensors_say(run: Path) -> None:
    """Recomputed from the file with gfloat-free arithmetic: E3M4 on a power-of-two scale, by hand."""
    path = run / "checkpoints" / "step_000002.pt"
    payload = read_checkpoint(path)
    row = next(r for r in diagnose(path, Questions())["layers"] if r["name"] == "blocks.1.mlp.c_fc")
    weight = payload["weights"]["blocks.1.mlp.c_fc.weight"].double()
    scaled = weight / row["scale"]
    exponent = torch.floor(torch.log2(scaled.abs())).clamp(min=0)  # bias 1: emin = 0
    gap = row["scale"] * 2.0 ** (exponent - 4)
    # Both are medians of the same float32 numbers; torch.median takes the lower of two middle ones.
    assert row["stiffness_median"] == pytest.approx(float(gap.flatten().median()), rel=1e-6)
    error = (weight - torch.round(weight / gap) * gap).abs() / gap
    assert row["grid_error_ulp_mean"] == pytest.approx(float(error.mean()), abs=1e-3)


@pytest.mark.parametrize("regime", ["standard", "uniform"])
def test_the_layer_table_is_what_the_engine_measured(tmp_path: Path, regime: str) -> None:
    """The engine measured the captured step on its own path: every number of the table is its own."""
    config = small(
        *FAILING,
        f"precision.regime={regime}",
        "fp8_format=E5M2",
        "precision.scaling.margin=0.5",
        "use_shadow=true",
        "runtime.capture_at=3",
    )
    events = list(train(config, run_dir=tmp_path))
    measured = next(event for event in events if isinstance(event, StepCompleted) and event.step == 3)
    names = next(event.layers for event in events if isinstance(event, RunStarted))
    rows = {
        row["name"]: row
        for row in diagnose(tmp_path / "checkpoints" / "anomaly_step_3.pt", Questions())["layers"]
    }
    compared = 0
    for metric in (
        "bit_stall_rate",
        "update_transfer",
        "gradient_sparsity",
        "gradient_sqnr",
        "gradient_cosine",
        "zero_update_fraction",
    ):
        for name, value in zip(names, measured.layers.get(metric, []), strict=False):
            if name != "lm_head" and value is not None:
                assert rows[name][metric] == pytest.approx(value, rel=1e-9), (metric, name)
                compared += 1
    for metric in ("overflow_rate", "underflow_rate", "amax"):
        for role in ("weights", "activations", "gradients"):
            for name, value in zip(names, measured.layers.get(f"{metric}/{role}", []), strict=False):
                if value is not None:
                    assert rows[name][metric][role] == value, (metric, role, name)
                    compared += 1
    assert compared > 100
    assert sum(rate["activations"] for rate in (row["overflow_rate"] for row in rows.values())) > 0


def test_a_checkpoint_without_evidence_is_still_diagnosed(capture: Capture) -> None:
    path = capture("precision.regime=standard", "inject=nan@3:blocks.1.mlp.c_fc:gradients")
    payload = read_checkpoint(path)
    whole = diagnose(path, Questions())
    for name in ("trace", "gradient", "history", "batch"):
        del payload[name]
    payload["missing"] = {"trace": "MemoryError: "}
    bare = path.with_name("bare.pt")
    write_checkpoint(bare, payload)
    document = diagnose(bare, Questions(replay=True))
    assert not document["trust"]["complete"]
    assert set(document["trust"]["missing"]) == {"trace", "gradient", "history", "batch"}
    # The embedded corpus gives the batch again, and the step its trace.
    assert document["batch"]["origin"] == "drawn again from the corpus"
    first, expected = to_json_value(document["first_nonfinite"]), to_json_value(whole["first_nonfinite"])
    assert first == expected
    assert not document["replay"]["ran"]


@pytest.mark.parametrize(("streak", "expected"), [(49, "none"), (50, "divergence")])
def test_a_divergence_that_the_run_was_flagging(
    run: Path, tmp_path: Path, streak: int, expected: str
) -> None:
    payload = read_checkpoint(run / "checkpoints" / "step_000002.pt")
    payload["monitors"]["watchers"]["divergence"] = {"smoothed": 4.8, "best": 3.0, "streak": streak}
    write_checkpoint(tmp_path / "x.pt", payload)
    document = diagnose(tmp_path / "x.pt", Questions())
    assert document["failure"]["class"] == expected
    if expected == "divergence":
        assert "now 1.60 times" in document["failure"]["trigger"]
        assert document["mechanism"]["stage"] == "unknown"
        assert document["mechanism"]["evidence"][0].startswith("cosine of the gradient")


def test_optimizer_state_on_a_grid_is_attributed_and_replayed(capture: Capture) -> None:
    path = capture(
        "precision.roles=weights,activations,gradients,optimizer_state",
        "fp8_format=E5M2",
        "runtime.capture_at=3",
    )
    document = diagnose(path, Questions(replay=True))
    assert document["replay"]["bit_exact"] is True
    assert "optimizer_state bypassed" in document["mechanism"]["attempts"]


def test_an_altered_batch_is_not_what_the_corpus_holds(capture: Capture) -> None:
    document = diagnose(capture("inject=bitflip@3:data", "runtime.capture_at=3"), Questions())
    assert document["batch"]["equals_corpus"] is False
    assert any("not what the corpus holds" in finding["text"] for finding in document["findings"])


def test_a_weight_that_changed_in_memory_disagrees_with_its_code(capture: Capture) -> None:
    path = capture("precision.regime=uniform", "runtime.capture_at=3")
    payload = read_checkpoint(path)
    payload["weights"]["blocks.0.mlp.c_fc.weight"][0, 0] += 1e-3
    write_checkpoint(path, payload)
    assert diagnose(path, Questions())["trust"]["codes_agree"] is False


def test_a_shifted_run_is_diagnosed_in_the_format_then_active(capture: Capture, tmp_path: Path) -> None:
    faults = ",".join(f"nan@{n}:blocks.0.mlp.c_fc:gradients" for n in (1, 2, 3))
    late = "nan@6:blocks.1.mlp.c_fc:gradients"
    config = small(
        *FAILING,
        "precision.regime=uniform",
        "fp8_format=E7M0",
        "max_steps=8",
        "nan_policy=auto",
        "enable_emergency_shift=true",
        f"inject={faults},{late}",
    )
    for _ in train(config, run_dir=tmp_path / "shifted"):
        pass
    document = diagnose(tmp_path / "shifted" / "checkpoints" / "anomaly_step_6.pt", Questions())
    assert document["failure"]["format"] == "E5M2"
    assert [name for _, name in document["failure"]["formats"]] == ["E7M0", "E5M2"]
    assert document["first_nonfinite"]["module"] == "blocks.1.mlp.c_fc"


def test_the_rescue_is_a_configuration_that_loads(capture: Capture) -> None:
    path = capture(
        "precision.regime=standard",
        "fp8_format=E5M2",
        "precision.overflow=ieee",
        "precision.scaling.margin=16",
        "inject=amax@3:blocks.1.mlp.c_fc:gradients",
    )
    document = diagnose(path, Questions(what_if=True))
    survivors = {entry["change"] for entry in document["counterfactuals"] if entry["survives"]}
    assert {
        "gradients left in float32",
        "saturating instead of inf",
        "fresh amax (history forgotten)",
        "nothing rounded",
    } <= survivors
    assert "learning rate / 10" not in survivors
    assert document["minimal_bf16_layers"] == ["blocks.1.mlp.c_fc"]
    assert document["next"]["command"].endswith("precision.overflow=saturate")
    config = small(*FAILING)
    for entry in document["counterfactuals"]:
        with_overrides(config, entry["overrides"])
    rules = rescuing_overrides((), document["minimal_bf16_layers"])
    assert with_overrides(config, rules).precision.rules[0].pattern == "blocks.1.mlp.c_fc"


def test_the_state_is_left_as_it_was(capture: Capture) -> None:
    """Sixty what-ifs with other grids of the stored weights, and the weights are the recorded ones after."""
    evidence = open_checkpoint(capture("precision.regime=uniform", "runtime.capture_at=3"))
    assert isinstance(evidence, OpenedCheckpoint)
    given = rebuild(evidence)
    before, scales = given.state.flat.values.clone(), list(given.state.stored_scales)
    assert len([*what_if(Trials(given, None))]) > 60
    assert torch.equal(given.state.flat.values, before)
    assert given.state.stored_scales == scales


def test_formats_in_blocks_are_tried_and_a_run_in_blocks_says_how_it_scales(capture: Capture) -> None:
    named = {"E5M2": {"MXFP8_E4M3", "MXFP8_E5M2", "NVFP4"}, "MXFP4": {"MXFP8_E4M3", "NVFP4"}}
    for name, expected in named.items():
        path = capture("precision.regime=standard", f"fp8_format={name}", "runtime.capture_at=3")
        document = diagnose(path, Questions(what_if=True))
        assert document["failure"]["scaling"] == ("delayed" if name == "E5M2" else "amax")
        blocks = [each for each in document["counterfactuals"] if each["format"] in expected]
        assert {each["format"] for each in blocks} == expected
        assert {(each["scaling"], each["survives"]) for each in blocks} == {("amax", True)}
        assert len(blocks) == 2 * len(expected), "each in both roundings"


def test_another_format_is_tried_without_the_tiles_of_the_first(capture: Capture) -> None:
    """W, A and G of ``fp8_tiles`` are three grids; in a what-if all are the one that is named."""
    tiles = "E4M3@8x8:float32"
    rule = "{pattern: blocks.*, activation_format: E4M3@8:float32, gradient_format: E4M3@8:float32}"
    settings = ("precision.regime=standard", f"fp8_format={tiles}", f"precision.rules=[{rule}]")
    document = diagnose(capture(*settings, "runtime.capture_at=3"), Questions(what_if=True))
    line = "E4M3@8:float32"
    rounded = [each["formats"] for each in document["layers"]]
    assert {"weights": tiles, "activations": line, "gradients": line} in rounded
    tried = {each["change"]: each for each in document["counterfactuals"] if each["kind"] == "format"}
    again = with_overrides(small(*settings), tried["E5M2, nearest, scale amax"]["overrides"])
    assert (again.fp8_format, again.precision.rules) == ("E5M2", ())


def test_a_variation_is_tried_once(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the mechanism has tried is not tried again by the remedies, the grid and the bisection."""
    steps: list[object] = []

    def counted(*arguments: Any, **options: Any) -> Step:
        steps.append(arguments)
        return compute_step(*arguments, **options)

    monkeypatch.setattr(variations, "compute_step", counted)
    evidence = open_checkpoint(capture("precision.regime=uniform", "fp8_format=E5M2", "runtime.capture_at=3"))
    assert isinstance(evidence, OpenedCheckpoint)
    given = rebuild(evidence)
    trials = Trials(given, None, examine(given).recorded)
    attribute(trials)
    made = [entry for entry in what_if(trials) if entry.outcome is not None]
    assert minimal_bf16_layers(trials) == ()
    # Of the grid of formats, E5M2 on delayed scales is the step as recorded, and its stochastic update.
    # And the step as recorded was taken for the layer table.
    assert len(made) > 60
    assert len(steps) == len(made) - 3


def test_the_file_is_opened_and_hashed_once(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything asked for: the replaying process is sent the state that was verified, and no path."""
    path = capture("runtime.capture_at=2")
    seen: list[str] = []
    counting = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:  # a hook stays for the life of the process
        if counting and event == "open" and str(arguments[0]) == str(path):
            seen.append("opened")

    def counted(name: str) -> None:
        function = getattr(checkpoint_file, name)
        monkeypatch.setattr(checkpoint_file, name, lambda *given: seen.append(name) or function(*given))

    counted("_verify_seal")
    counted("content_hash")
    sys.addaudithook(hook)
    document = diagnose(path, Questions(replay=True, what_if=True))
    counting = False
    assert document["replay"]["bit_exact"] is True
    assert seen == ["opened", "_verify_seal", "content_hash"]


def test_a_control_is_put_beside_it(run: Path, capture: Capture) -> None:
    path = capture("precision.regime=standard", "fp8_format=E3M4", "inject=nan@3:lm_head:gradients")
    document = diagnose(path, Questions(against=run))
    other = document["against"]
    assert other["same_seed"] is True
    assert other["step"] == 2
    assert other["parted_at"] is None
    losses = next(entry for entry in other["metrics"] if entry["metric"] == "loss")
    assert losses["here"] == losses["control"]
    assert other["control_at_failure"] is not None


def test_a_control_that_is_no_run_is_refused(run: Path, capture: Capture, tmp_path: Path) -> None:
    path = capture("runtime.capture_at=2")
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match="no events to read"):
            diagnose(path, Questions(against=folder))
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    steps = [number for number, line in enumerate(lines) if '"event": "step"' in line]
    del lines[steps[1]]
    for log, problem in (("".join(lines), "step 2 is missing"), (lines[0], "no steps"), ("[1]\n", "damaged")):
        (tmp_path / "events.jsonl").write_text(log)
        with pytest.raises(UsageError, match=problem):
            diagnose(path, Questions(against=tmp_path))


STATE = {
    "fc.weight": torch.tensor([[0.5, -0.1, 3.0], [0.0, 1e-9, 2.0]]),
    "fc.bias": torch.tensor([1.0, float("nan"), float("inf")]),
    "steps": torch.tensor(3),
}


@pytest.fixture(params=["pt", "nested", "safetensors"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"model.{request.param}"
    if request.param == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE if request.param == "pt" else {"model": STATE, "epoch": 3}, path)
    return path


def test_a_foreign_state_dict_is_read_for_what_it_is(foreign: Path) -> None:
    document = diagnose(foreign, Questions(format="E3M4"))
    assert document.keys() >= KEYS
    assert document["failure"] == {"class": "nonfinite", "step": None, "nonfinite_count": 2}
    rows = {row["name"].rpartition("fc.")[2]: row for row in document["layers"]}
    assert rows.keys() == {"weight", "bias"}
    assert rows["bias"]["nonfinite_weights"] == 2
    assert rows["bias"]["first_nonfinite_index"] == 1
    assert rows["weight"]["amax"] == 3.0
    # s = 2^ceil(log2(1.25 * 3 / 124)) = 2^-5: of six weights 1e-9 alone rounds to 0, of five non-zero ones
    assert rows["weight"]["scale"] == 2.0**-5
    assert rows["weight"]["rounded_to_zero"] == 0.2
    json.dumps(to_json_value(document), allow_nan=False)


def test_without_a_format_only_values_are_judged(foreign: Path) -> None:
    document = diagnose(foreign, Questions())
    assert document["layers"]
    assert all(row["stiffness_median"] is None for row in document["layers"])
    assert any("--format" in finding["text"] for finding in document["findings"])


@pytest.mark.parametrize("question", [{"replay": True}, {"what_if": True}, {"against": Path()}])
def test_a_foreign_file_cannot_be_replayed(foreign: Path, question: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="needs a checkpoint that altgrad wrote"):
        diagnose(foreign, Questions(**question))


def safetensors_with_header(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        safetensors_with_header(b"{", 1 << 60),
        safetensors_with_header(b'{"a":1}'),
        safetensors_with_header(b"{}"),
        safetensors_with_header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
        safetensors_with_header(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}')
        + bytes(4),
        safetensors_with_header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}') + bytes(4),
        safetensors_with_header(b"{" * 5000),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        diagnose(path, Questions())


def test_a_configuration_larger_than_its_tensors_is_refused(capture: Capture) -> None:
    """A sealed file that asks for a network of half a billion weights must not be given the memory for it."""
    path = capture("runtime.capture_at=2")
    payload = read_checkpoint(path)
    payload["config"]["model"]["n_embd"] = 1 << 12
    write_checkpoint(path, payload)
    with pytest.raises(CheckpointError, match=r"another network|not allowed"):
        diagnose(path, Questions())


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload.pop("config"),
        lambda payload: payload.update(config={"seed": "x"}),
        lambda payload: payload.update(config=[]),
        lambda payload: payload.pop("weights"),
        lambda payload: payload.update(weights=[1]),
        lambda payload: payload.pop("step"),
        lambda payload: payload["batch"].update(x=torch.full((2, 8), 10_000)),
        lambda payload: payload["batch"].update(x=torch.zeros(2, 9, dtype=torch.int64)),
        lambda payload: payload["batch"].update(x=torch.zeros(0, 8, dtype=torch.int64)),
        lambda payload: payload["batch"].update(x=torch.zeros(2, 8)),
        lambda payload: payload["batch"].pop("y"),
        lambda payload: payload.update(batch=3),
        lambda payload: payload.update(formats=[["x", "y"]]),
        lambda payload: payload["config"]["runtime"].update(threads=1 << 40),
    ],
)
def test_a_forged_payload_is_one_error(capture: Capture, change: Any) -> None:
    path = capture("runtime.capture_at=2")
    payload = read_checkpoint(path)
    change(payload)
    write_checkpoint(path, payload)
    with pytest.raises(UsageError):
        diagnose(path, Questions())


def test_a_path_in_the_file_is_never_followed(capture: Capture, tmp_path: Path) -> None:
    """A named pipe would hang whoever opens it, and a cache folder would be written to."""
    path = capture("runtime.capture_at=2")
    payload = read_checkpoint(path)
    pipe, cache = tmp_path / "pipe.txt", tmp_path / "cache"
    os.mkfifo(pipe)
    for stated in (
        {"path": str(pipe)},
        {"hub": "owner/name"},
        {"cache_dir": str(cache)},
        {"tokenizer": "gpt2"},
    ):
        payload["config"]["data"] = stated
        write_checkpoint(path, payload)
        document = diagnose(path, Questions())
        assert document["failure"]["class"] == "none"
        assert (document["batch"]["equals_corpus"] is None) is ("cache_dir" not in stated)
    assert not cache.exists()


def test_the_corpus_can_be_pointed_at(capture: Capture, tmp_path: Path) -> None:
    corpus = tmp_path / "law.txt"
    corpus.write_text("".join(f"Article {n}. The act of {n} shall apply.\n\n" for n in range(200)))
    path = capture(f"data.path={corpus}", "runtime.capture_at=2")
    assert diagnose(path, Questions())["batch"]["equals_corpus"] is None
    assert diagnose(path, Questions(data=str(corpus)))["batch"]["equals_corpus"] is True


def test_a_layer_can_be_picked(run: Path) -> None:
    path = run / "checkpoints" / "step_000002.pt"
    document = diagnose(path, Questions(layer="c_fc"))
    assert [row["name"] for row in document["layers"]] != []
    assert all("c_fc" in row["name"] for row in document["layers"])
    with pytest.raises(UsageError, match="no layer is called"):
        diagnose(path, Questions(layer="c_fd"))
