"""The range-relative clipper: silent on healthy rates, acting at its threshold, honest about its effect."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from altgrad_cli.errors import ConfigError
from altgrad_cli.formats import FORMAT_REGISTRY
from altgrad_cli.training.watch.clipping import PartitionRelativeClipper


def model_with_gradient(norm):
    model = nn.Linear(4, 4, bias=False)
    model.weight.grad = torch.full((4, 4), norm / 4)  # 16 equal values of this size have this norm
    return model


def test_thresholds_follow_the_range():
    thresholds = {n: PartitionRelativeClipper(FORMAT_REGISTRY[n]).clip_threshold for n in FORMAT_REGISTRY}
    assert thresholds["E5M2"] == 1.0
    assert thresholds["E3M4"] == 124 / 57344
    assert round(100 * thresholds["E3M4"] / thresholds["E5M2"], 3) == 0.216
    assert thresholds["E7M0"] > 1e10 * thresholds["E5M2"]
    assert PartitionRelativeClipper(FORMAT_REGISTRY["E5M2"], base_clip=2.5).clip_threshold == 2.5


@pytest.mark.parametrize(
    "rate, acts",
    [(0.0, False), (0.00999, False), (0.01, True), (0.5, True), (None, False), (math.nan, False)],
)
def test_acts_from_the_threshold_on(rate, acts):
    model = model_with_gradient(norm=8.0)
    clipper = PartitionRelativeClipper(FORMAT_REGISTRY["E5M2"])
    assert clipper.clip_if_needed(model, rate) is acts
    assert model.weight.grad.norm().item() == pytest.approx(1.0 if acts else 8.0)
    assert clipper.state_dict() == {"applied": int(acts), "bound": int(acts)}


def test_clips_exactly_as_torch_does():
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(4, 4, generator=generator)
    ours, theirs = model_with_gradient(1.0), model_with_gradient(1.0)
    ours.weight.grad, theirs.weight.grad = gradient.clone(), gradient.clone()
    PartitionRelativeClipper(FORMAT_REGISTRY["E3M4"]).clip_if_needed(ours, 0.02)
    nn.utils.clip_grad_norm_(theirs.parameters(), 124 / 57344)
    assert torch.equal(ours.weight.grad, theirs.weight.grad)


def test_a_threshold_that_cannot_bind_is_applied_without_effect():
    model = model_with_gradient(norm=8.0)
    before = model.weight.grad.clone()
    clipper = PartitionRelativeClipper(FORMAT_REGISTRY["E7M0"])
    assert clipper.clip_if_needed(model, 0.5) is True
    assert torch.equal(model.weight.grad, before)
    assert (clipper.last_bound, clipper.last_norm) == (False, pytest.approx(8.0))
    assert clipper.state_dict() == {"applied": 1, "bound": 0}


def test_what_it_did_is_forgotten_on_a_step_where_it_rests():
    clipper = PartitionRelativeClipper(FORMAT_REGISTRY["E5M2"])
    clipper.clip_if_needed(model_with_gradient(8.0), 0.5)
    assert clipper.last_bound
    clipper.clip_if_needed(model_with_gradient(8.0), 0.0)
    assert (clipper.last_norm, clipper.last_bound) == (None, False)


def test_counts_survive_saving_and_loading():
    clipper = PartitionRelativeClipper(FORMAT_REGISTRY["E5M2"])
    clipper.clip_if_needed(model_with_gradient(8.0), 0.5)
    fresh = PartitionRelativeClipper(FORMAT_REGISTRY["E5M2"])
    fresh.load_state_dict(clipper.state_dict())
    assert fresh.state_dict() == {"applied": 1, "bound": 1}


@pytest.mark.parametrize(
    "settings", [{"base_clip": 0.0}, {"base_clip": math.nan}, {"overflow_threshold": 1.5}]
)
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(ConfigError, match="is not allowed"):
        PartitionRelativeClipper(FORMAT_REGISTRY["E5M2"], **settings)
