"""What a capture and the measures hold, against what the loop itself has in its hands."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli import observe
from altgrad_cli.forensics.opened import OpenedCheckpoint, open_checkpoint
from altgrad_cli.forensics.step_again.replay_state import rebuild
from altgrad_cli.observing.lab import NonfiniteStep
from altgrad_cli.training.step import compute_step
from tests.conftest import needed
from tests.observing import planted
from tests.observing.loops import batch, network, plain_loop


def opened_capture(run: Path, step: int) -> OpenedCheckpoint:
    found = open_checkpoint(run / "checkpoints" / f"anomaly_step_{step}.pt")
    assert isinstance(found, OpenedCheckpoint)
    return found


def live(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- The measures ---


def test_a_step_of_several_passes_is_counted_whole() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with observe(model, optimizer, nan_policy="drop") as lab:
        losses = []
        for number in range(3):
            x, y = batch(number)
            if number == 0:
                x[0, 0] = torch.inf  # which a saturating format makes finite
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            losses.append(loss.detach())
        optimizer.step()
        assert lab.metrics["nonfinite_inputs/activations"] == 1
        assert lab.metrics["loss"] == float(losses[0] + losses[1] + losses[2])


def test_an_evaluation_rounds_as_ml_dtypes_does_and_counts_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 4, bias=False))
    weight = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = batch(0)
    with observe(model, optimizer, settings=["precision.scaling.recipe=none"]) as lab:
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            found = model(x)
            model(torch.full_like(x, torch.inf))
        optimizer.step()
        assert lab.metrics["nonfinite_inputs/activations"] == 0
    rounded = [
        torch.from_numpy(each.numpy().astype(ml_dtypes.float8_e5m2).astype("float32")) for each in (x, weight)
    ]
    assert torch.equal(found, F.linear(*rounded)) and not torch.equal(found, F.linear(x, weight))


def test_under_autocast_a_product_is_handed_on_in_its_type() -> None:
    model = network()
    seen: list[Tensor] = []
    with observe(model, torch.optim.SGD(model.parameters(), 0.1)):
        model[0].register_forward_hook(lambda module, args, out: seen.append(out))
        model(batch(0)[0])
        with torch.autocast("cpu", torch.bfloat16):
            model(batch(0)[0])
    assert seen[1].dtype == torch.bfloat16 and torch.equal(seen[1], seen[0].bfloat16())


# --- Before the update ---


class Counting(nn.Module):
    """Layers, and a buffer that every pass in training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.norm = network(), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.net(x))
        return out


@pytest.mark.parametrize("role", ["gradients", "stored_weights"])
@pytest.mark.parametrize("policy", ["tell", "drop", "stop"])
def test_buffers_weights_and_moments_before_a_bad_step(policy: str, role: str, tmp_path: Path) -> None:
    model = Counting()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    lab = observe(
        model,
        optimizer,
        run_dir=tmp_path / "run",
        nan_policy=policy,  # type: ignore[arg-type]
        settings=[f"inject=['nan@3:net.2:{role}']"],
    )
    plain_loop(model, optimizer, 2)
    before, moments = live(model), [optimizer.state[p]["exp_avg"].clone() for p in model.parameters()]
    x, y = batch(2)
    F.cross_entropy(model(x), y).backward()
    gradients, passed = [p.grad for p in model.parameters()], live(model)
    if policy == "stop":
        with pytest.raises(NonfiniteStep):
            optimizer.step()
    else:
        optimizer.step()
    assert all(p.grad is each for p, each in zip(model.parameters(), gradients, strict=True))
    after = live(model)
    if policy == "tell":
        assert all(torch.equal(after[name], passed[name]) for name in after if name.startswith("norm.r"))
        assert not torch.equal(after["net.0.weight"], before["net.0.weight"]), "the step happens"
    else:
        assert same(before, after)
    lab.close()
    saved = opened_capture(tmp_path / "run", 3).saved
    assert same({**saved.weights, **saved.buffers}, before)
    names = [name for name, _ in model.named_parameters()]
    assert all(torch.equal(saved.optimizer["exp_avg"][n], m) for n, m in zip(names, moments, strict=True))


def test_weights_that_the_loop_itself_has_changed_are_those_of_the_capture(tmp_path: Path) -> None:
    model = Counting()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    with observe(model, optimizer, run_dir=tmp_path / "run") as lab:
        plain_loop(model, optimizer, 2)
        with torch.no_grad():
            for each in model.parameters():
                each.mul_(0.5)
        before, moments = live(model), [optimizer.state[p]["exp_avg"].clone() for p in model.parameters()]
        lab.capture_next()
        plain_loop(model, optimizer, 1, first=2)
        assert not same(live(model), before)
    saved = opened_capture(tmp_path / "run", 3).saved
    assert same({**saved.weights, **saved.buffers}, before)
    assert all(
        map(torch.equal, [saved.optimizer["exp_avg"][n] for n, _ in model.named_parameters()], moments)
    )


# --- The step again ---


@pytest.mark.parametrize("own_loss", [True, False])
def test_the_step_again_has_the_gradient_that_the_loop_had(own_loss: bool, tmp_path: Path) -> None:
    """Dropout, a turned and a frozen weight, two passes a step, an output that two losses use."""
    needed("transformers")
    subject = f"{planted.__file__}:gpt2_that_drops"
    torch.manual_seed(11)
    model = planted.build_gpt2_that_drops(torch.Generator())
    model.get_parameter("transformer.h.0.attn.c_attn.weight").requires_grad_(False)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], 1e-2)
    with observe(model, optimizer, precision="e4m3", run_dir=tmp_path / "run", subject=subject) as lab:
        for step in range(3):
            for part in range(2):
                given = planted.tokens(torch.Generator().manual_seed(10 * step + part))
                if own_loss:
                    loss = model(input_ids=given.x, labels=given.x).loss
                    loss.backward()
                else:
                    logits = model(given.x).logits
                    loss = F.cross_entropy(logits.flatten(0, 1), given.y.flatten())
                    (loss + 0.1 * logits.square().mean()).backward()
            if step == 2:
                lab.capture_next()
                gradients = {
                    name: each.grad.clone()
                    for name, each in model.named_parameters()
                    if each.grad is not None
                }
            optimizer.step()
            optimizer.zero_grad()
    again = rebuild(opened_capture(tmp_path / "run", 3), None, subject)
    found = compute_step(again.state, again.given_batch()).result.gradient
    flat = again.state.flat
    assert flat.names and set(flat.names) == set(gradients)
    for name, view in zip(flat.names, flat.views(found), strict=True):
        mine = gradients[name] if view.shape == gradients[name].shape else gradients[name].T
        turned = "attn.c_proj" in name and name.endswith("weight")
        assert torch.equal(view, gradients[name].T if turned else mine), name
