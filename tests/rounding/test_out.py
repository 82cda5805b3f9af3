"""Where a result is written: the caller's tensor, or a new one with memory of its own."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from altgrad_cli.errors import UsageError
from altgrad_cli.rounding import scratch
from altgrad_cli.rounding.quantize import quantize


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_given_tensor_receives_what_a_new_one_would_hold(dtype: torch.dtype) -> None:
    x = torch.randn(7, 9, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = quantize(x, "E4M3", 0.3)
    for out in (torch.full_like(x, 7), torch.full((9, 7), 7, dtype=dtype).T, x):
        assert quantize(x, "E4M3", 0.3, out=out) is out
        assert torch.equal(out, expected) and expected.dtype == dtype


def test_a_tensor_is_rounded_in_place_and_in_blocks() -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    expected = quantize(x, "MXFP8_E4M3")
    values = x.clone()
    assert quantize(values, "MXFP8_E4M3", out=values) is values
    assert torch.equal(values, expected)


def test_what_cannot_be_written_into_is_refused() -> None:
    x = torch.zeros(3)
    for out in (torch.zeros(4), torch.zeros(3, dtype=torch.bfloat16)):
        with pytest.raises(UsageError, match="out is torch"):
            quantize(x, "E5M2", out=out)
    for given, out in ((x.clone().requires_grad_(), torch.zeros(3)), (x, torch.zeros(3).requires_grad_())):
        with pytest.raises(UsageError, match="has no gradient"):
            quantize(given, "E5M2", out=out)
        with torch.no_grad():
            assert quantize(given, "E5M2", out=out) is out


def test_a_new_result_still_passes_the_gradient_straight_through() -> None:
    x = torch.tensor([0.3, 100.0], requires_grad=True)
    quantize(x, "E2M1").sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 1.0]
    assert not quantize(x.detach(), "E2M1").requires_grad


def test_only_whole_huge_pages_of_a_large_result_are_asked_for() -> None:
    advise = mock.Mock()
    with mock.patch.object(scratch, "_advise", return_value=advise):
        scratch.result_like(torch.empty(1000))
        advise.assert_not_called()
        large = scratch.result_like(torch.empty(9_000_001))
    ((start, length, advice),) = (call.args for call in advise.call_args_list)
    assert advice == 14  # MADV_HUGEPAGE of Linux
    assert start % (1 << 21) == 0 and length % (1 << 21) == 0 and length > 0
    end = large.data_ptr() + large.numel() * 4
    assert large.data_ptr() <= start and start + length <= end
    assert start - large.data_ptr() < 1 << 21 and end - (start + length) < 1 << 21
