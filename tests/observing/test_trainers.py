"""Other people's trainers, watched through their callbacks: unchanged, measured, captured, given back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli import observe
from altgrad_cli.errors import UsageError
from altgrad_cli.observing.lab import NonfiniteStep
from examples.cnn import Network, pictures
from tests.conftest import needed
from tests.observing.planted import build_gpt2
from tests.test_layers import PACKAGE, imported_modules

WRITTEN = ["runtime.checkpoint_interval=2"]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def given_back(model: nn.Module) -> bool:
    return not any("forward" in part.__dict__ or part._forward_pre_hooks for part in model.modules())


def check_written(run: Path, steps: int) -> None:
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == [*range(1, steps + 1)]
    assert lines[-1]["event"] == "run_ended"
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"step_000002.pt", "step_000004.pt"}


# --- Transformers ---


def trained_by_transformers(
    folder: Path, steps: int, *callbacks: Any, **more: Any
) -> tuple[list[float], nn.Module]:
    from transformers import Trainer, TrainingArguments

    torch.manual_seed(5)
    model = build_gpt2(torch.Generator())
    data = []
    for number in range(24):
        drawn = torch.randint(32, (8,), generator=torch.Generator().manual_seed(number))
        data.append({"input_ids": drawn, "labels": drawn})
    arguments = TrainingArguments(
        str(folder / "trainer"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=steps,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        seed=3,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **more,
    )
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data[:4], callbacks=[*callbacks])
    try:
        trainer.train()
    finally:
        trainer.callback_handler.callbacks.clear()
    keys = ("loss", "eval_loss", "grad_norm")
    return [line[key] for line in trainer.state.log_history for key in keys if key in line], model


@pytest.fixture
def transformers_observer() -> Callable[..., Any]:
    needed("transformers")
    needed("accelerate")
    from altgrad_cli.observing.hf import TransformersObserver

    return TransformersObserver


def test_a_trainer_of_transformers(transformers_observer: Callable[..., Any], tmp_path: Path) -> None:
    expected, plain = trained_by_transformers(tmp_path, 5)
    watching = transformers_observer(regime="fp32", run_dir=tmp_path / "run", settings=WRITTEN)
    found, watched = trained_by_transformers(tmp_path, 5, watching)
    assert found == expected
    assert same(weights_of(plain), weights_of(watched))
    check_written(tmp_path / "run", 5)
    assert given_back(watched)


def test_a_planted_nan_in_a_trainer_of_transformers(
    transformers_observer: Callable[..., Any], tmp_path: Path
) -> None:
    _, before = trained_by_transformers(tmp_path, 2, transformers_observer(precision="e4m3"))
    fault = ["inject=['nan@3:transformer.h.1.mlp.c_fc:gradients']"]
    dropped = transformers_observer(
        precision="e4m3", settings=fault, nan_policy="drop", run_dir=tmp_path / "run"
    )
    _, after = trained_by_transformers(tmp_path, 3, dropped)
    assert same(weights_of(before), weights_of(after))
    assert "gradients of transformer.h.1.mlp.c_fc" in (tmp_path / "run" / "failure_report.md").read_text()
    stopping = transformers_observer(precision="e4m3", settings=fault, nan_policy="stop")
    with pytest.raises(NonfiniteStep, match=r"gradients of transformer\.h\.1\.mlp\.c_fc"):
        trained_by_transformers(tmp_path, 3, stopping)
    model = stopping.lab._run.state.model
    assert same(weights_of(before), weights_of(model)) and not given_back(model)
    stopping.close()
    assert given_back(model)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_trainer_that_compiles_is_refused_before_its_first_step(
    transformers_observer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.state import AcceleratorState

    for name in (
        "BACKEND",
        "MODE",
    ):  # the Trainer writes them, for Accelerate to read: they end with the test
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", "")
    with pytest.raises(UsageError, match="compiles its model"):
        trained_by_transformers(tmp_path, 2, transformers_observer(), torch_compile=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_an_option_that_observe_does_not_know(transformers_observer: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="precison"):
        transformers_observer(precison="e5m2")


# --- Accelerate: nothing to do ---


def accelerated(steps: int, **options: Any) -> tuple[list[float], nn.Module]:
    from accelerate import Accelerator

    torch.manual_seed(5)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = build_gpt2(torch.Generator())
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), 1e-2))
    lab = observe(model, optimizer, **options) if options else None
    losses = []
    for number in range(2 * steps):
        drawn = torch.randint(32, (2, 8), generator=torch.Generator().manual_seed(number))
        with accelerator.accumulate(model):
            loss = model(input_ids=drawn, labels=drawn).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    if lab is not None:
        lab.close()
    return losses, model


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_accelerate_needs_nothing(tmp_path: Path) -> None:
    needed("transformers")
    needed("accelerate")
    expected, plain = accelerated(5)
    found, watched = accelerated(5, regime="fp32", run_dir=tmp_path / "run", settings=WRITTEN)
    assert found == expected and same(weights_of(plain), weights_of(watched))
    check_written(tmp_path / "run", 5)
    fault = ["inject=['inf@3:transformer.h.0.attn.c_attn:activations']"]
    _, before = accelerated(2, precision="e4m3")
    _, after = accelerated(3, precision="e4m3", nan_policy="drop", settings=fault)
    assert same(weights_of(before), weights_of(after))


# --- Lightning ---


def lightning_module(flavour: Any, inside: str) -> Any:
    class Module(flavour.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(5)
            self.net = Network()
            self.losses: list[float] = []

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, number: int) -> Tensor:
            loss = F.cross_entropy((self if inside == "" else self.net)(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def validation_step(self, batch: Any, number: int) -> None:
            self.losses.append(F.cross_entropy(self(batch[0]), batch[1]).item())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), 1e-2)

    return Module()


def trained_by_lightning(flavour: Any, steps: int, *callbacks: Any, inside: str = "") -> Any:
    torch.manual_seed(3)
    drawn = [pictures(4, torch.Generator().manual_seed(number)) for number in range(8)]
    data = [(each.x, each.y) for each in drawn]
    loader = torch.utils.data.DataLoader(data, batch_size=None)
    trainer = flavour.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        val_check_interval=4,
        limit_val_batches=1,
        callbacks=[*callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = lightning_module(flavour, inside)
    trainer.fit(module, loader, loader)
    return module


@pytest.fixture
def lightning_observer() -> Callable[..., Any]:
    needed("lightning")
    from altgrad_cli.observing.lightning import LightningObserver

    return LightningObserver


quiet = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*isinstance.treespec")


@quiet
@pytest.mark.parametrize(
    ("module", "inside"), [("lightning.pytorch", ""), ("lightning.pytorch", "net"), ("pytorch_lightning", "")]
)
def test_a_trainer_of_lightning(
    module: str, inside: str, lightning_observer: Callable[..., Any], tmp_path: Path
) -> None:
    flavour = needed(module)
    expected = trained_by_lightning(flavour, 5, inside=inside)
    watching = lightning_observer(part=inside, regime="fp32", run_dir=tmp_path / "run", settings=WRITTEN)
    found = trained_by_lightning(flavour, 5, watching, inside=inside)
    assert found.losses == expected.losses
    assert same(weights_of(expected), weights_of(found))
    check_written(tmp_path / "run", 5)
    assert given_back(found)


@quiet
def test_a_planted_nan_in_a_trainer_of_lightning(
    lightning_observer: Callable[..., Any], tmp_path: Path
) -> None:
    flavour = needed("lightning.pytorch")
    fault = ["inject=['nan@3:net.hidden:gradients']"]
    before = trained_by_lightning(flavour, 2, lightning_observer(precision="e4m3"))
    run = tmp_path / "run"
    dropped = lightning_observer(precision="e4m3", settings=fault, nan_policy="drop", run_dir=run)
    after = trained_by_lightning(flavour, 3, dropped)
    assert same(weights_of(before.net), weights_of(after.net))
    assert "gradients of net.hidden" in (run / "failure_report.md").read_text()
    stopping = lightning_observer(precision="e4m3", settings=fault, nan_policy="stop")
    with pytest.raises(NonfiniteStep, match=r"gradients of net\.hidden"):
        trained_by_lightning(flavour, 3, stopping)
    assert given_back(stopping.lab._run.state.model)


@quiet
def test_a_module_whose_forward_is_not_called_is_told_of(lightning_observer: Callable[..., Any]) -> None:
    flavour = needed("lightning.pytorch")
    with pytest.warns(UserWarning, match="observe the module that the loop calls"):
        trained_by_lightning(flavour, 2, lightning_observer(), inside="net")


# --- The core imports none of them ---


def test_trainers_are_named_by_their_adapters_alone() -> None:
    theirs = {"transformers", "accelerate", "lightning", "pytorch_lightning"}
    naming = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if theirs & {name.partition(".")[0] for name in imported_modules(path.read_text("utf-8"))}
    }
    assert naming == {"observing/hf.py", "observing/lightning.py"}


def test_observing_imports_no_trainer() -> None:
    code = (
        "import sys, torch, altgrad_cli\n"
        "model = torch.nn.Linear(2, 2)\n"
        "optimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "with altgrad_cli.observe(model, optimizer):\n"
        "    model(torch.ones(1, 2)).sum().backward()\n"
        "    optimizer.step()\n"
        "names = {'transformers', 'accelerate', 'lightning', 'pytorch_lightning'}\n"
        "print(sorted(names & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
