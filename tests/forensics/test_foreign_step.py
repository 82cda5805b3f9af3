"""State dicts of other libraries loaded into a user's own model: one step, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from altgrad_cli.commands.app import app
from altgrad_cli.config.loading import load_config
from altgrad_cli.errors import CheckpointError
from altgrad_cli.subjects.weights_of_others import fit_names
from altgrad_cli.subjects.yours import load_yours
from altgrad_cli.training.state import build_state
from tests.conftest import REPOSITORY, needed
from tests.small import LAW

SUBJECT = """
import torch
from torch import nn
from torch.nn import functional as F
from altgrad_cli import Batch, Subject

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.body = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.embedding.weight
    def forward(self, x):
        return self.head(self.body(self.embedding(x)))

def draw(generator):
    x = torch.randint(7, (4, 3), generator=generator)
    return Batch(x, x.roll(1, 1))

def loss(output, target, *, reduction="mean"):
    return F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction=reduction)

def make(config):
    return Subject(lambda g: Tied(), loss, draw, draw, lambda name: "head" if name == "head" else "hidden")
"""


@pytest.fixture
def subject(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(SUBJECT, "utf-8")
    return f"{tmp_path / 'own.py'}:make"


@pytest.fixture
def model(subject: str) -> nn.Module:
    torch.manual_seed(11)
    return load_yours(subject, load_config("base", [f"subject={subject}"])).build(torch.Generator())


def diagnosed(path: Path, subject: str, *options: str, code: int = 0) -> Any:
    given = ["diagnose-checkpoint", str(path), "--subject", subject, "--json", *options]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code == 0 else result.stderr


def loss_in_float32(subject: str, model: nn.Module) -> float:
    config = load_config("base", [f"subject={subject}", "precision.regime=fp32"])
    own = load_yours(subject, config)
    state = build_state(config, own)
    assert own.train is not None
    batch = own.train(state.streams["data"])
    return float(own.loss(model(batch.x), batch.y).detach())


WRITERS: dict[str, Callable[[nn.Module], object]] = {
    "plain": lambda model: model.state_dict(),
    "compiled": lambda model: torch.compile(model).state_dict(),  # type: ignore[union-attr]
    "DDP": lambda model: {"model": {f"module.{name}": v for name, v in model.state_dict().items()}},
    "FSDP": lambda model: {f"_fsdp_wrapped_module.{n}": v for n, v in model.state_dict().items()},
    "Lightning": lambda model: {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model._orig_mod.{name}": v for name, v in model.state_dict().items()},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    },
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.parametrize(
    "writer",
    [pytest.param(name, marks=pytest.mark.campaign) if name == "compiled" else name for name in WRITERS],
)
def test_the_loaded_model_is_the_one_that_was_saved(
    tmp_path: Path, subject: str, model: nn.Module, writer: str
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(WRITERS[writer](model), path)
    found = diagnosed(path, subject, "--format", "FP16")
    said = next(each["text"] for each in found["findings"] if "one batch of" in each["text"])
    expected = loss_in_float32(subject, model)
    assert abs(float(said.rpartition(" ")[2]) - expected) < 1e-3
    initial = load_yours(subject, load_config("base", [f"subject={subject}"])).build(torch.Generator())
    assert abs(loss_in_float32(subject, initial) - expected) > 0.01, "the weights must be visible"
    assert found["first_nonfinite"] is None
    fits = {(fit["layer"], fit["format"]): fit for fit in found["fits"]}
    assert {layer for layer, _ in fits} == {"body.0", "body.2", "head"}
    half = fits["body.0", "FP16"]["relative_error"]
    assert half < fits["body.0", "E3M4"]["relative_error"] < fits["body.0", "E7M0"]["relative_error"]


def test_a_tied_weight_may_be_there_once(tmp_path: Path, subject: str, model: nn.Module) -> None:
    tensors = {name: v for name, v in model.state_dict().items() if name != "head.weight"}
    save_file(tensors, tmp_path / "model.safetensors")
    assert diagnosed(tmp_path / "model.safetensors", subject)["failure"]["class"] == "none"


def test_the_first_tensor_that_is_not_finite_is_named_and_what_if_is_asked(
    tmp_path: Path, subject: str, model: nn.Module
) -> None:
    with torch.no_grad():
        model.body[2].weight[1, 3] = torch.inf  # type: ignore[index,union-attr,operator]
    torch.save(model.state_dict(), tmp_path / "nan.pt")
    found = diagnosed(tmp_path / "nan.pt", subject, "--what-if", "--format", "E4M3")
    first = found["first_nonfinite"]
    assert (first["module"], first["coordinates"]) == ("body.2", [1, 3])
    assert found["failure"]["class"] == "nonfinite"
    assert {entry["kind"] for entry in found["counterfactuals"]} >= {"recorded", "role", "format"}


def test_what_does_not_fit_is_named_with_what_is_near(tmp_path: Path, subject: str, model: nn.Module) -> None:
    tensors = {name.replace("body.0", "bodies.0"): v for name, v in model.state_dict().items()}
    torch.save(tensors, tmp_path / "other.pt")
    said = diagnosed(tmp_path / "other.pt", subject, code=2)
    assert "body.0.weight" in said and "bodies.0.weight" in said and "hint" in said
    tensors = model.state_dict() | {"body.0.weight": torch.zeros(3, 8)}
    torch.save(tensors, tmp_path / "size.pt")
    said = diagnosed(tmp_path / "size.pt", subject, code=2)
    assert "(3, 8)" in said and "(16, 8)" in said
    with pytest.raises(CheckpointError, match="lacks 6"):
        fit_names(model, {}, "nowhere")


def test_without_being_named_no_code_is_loaded(tmp_path: Path, model: nn.Module) -> None:
    torch.save(
        {"state_dict": model.state_dict(), "subject": f"{tmp_path / 'own.py'}:make"}, tmp_path / "m.pt"
    )
    (tmp_path / "own.py").write_text("raise SystemExit('run')", "utf-8")
    result = CliRunner().invoke(app, ["diagnose-checkpoint", str(tmp_path / "m.pt"), "--json"])
    assert result.exit_code == 0, result.output


def test_a_sharded_folder_of_transformers(tmp_path: Path) -> None:
    needed("transformers")
    named = f"{REPOSITORY / 'examples/gpt2.py'}:subject"
    settings = [f"subject={named}", f"data.path={LAW}"]
    config = load_config("base", settings)
    torch.manual_seed(5)
    model: Any = load_yours(named, config).build(torch.Generator())
    model.save_pretrained(tmp_path / "folder", max_shard_size="1MB")
    assert (tmp_path / "folder/model.safetensors.index.json").is_file()
    found = diagnosed(tmp_path / "folder", named, "--data", str(LAW), "--layer", "h.0.attn.c_attn")
    assert found["first_nonfinite"] is None and found["failure"]["class"] == "none"
    assert {"transformer.h.0.attn.c_attn"} <= {fit["layer"] for fit in found["fits"]}
    said = next(each["text"] for each in found["findings"] if "one batch of" in each["text"])
    assert float(said.rpartition(" ")[2]) > 0
