from __future__ import annotations

import numpy as np
import torch

from altgrad_cli.subjects.corpus.batches import batch_at, draw_batch

TOKENS = np.arange(1000, 1100, dtype=np.uint16)


def test_rows_are_consecutive_tokens_and_targets_are_one_token_later() -> None:
    batch = draw_batch(TOKENS, 12, 8, torch.Generator().manual_seed(0))
    assert batch.x.shape == batch.y.shape == (12, 8)
    assert batch.x.dtype == batch.y.dtype == torch.int64
    for row, offset in enumerate(batch.offsets):
        assert batch.x[row].tolist() == list(range(1000 + offset, 1008 + offset))
        assert batch.y[row].tolist() == list(range(1001 + offset, 1009 + offset))


def test_every_offset_that_leaves_a_whole_row_occurs_and_no_other() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = np.arange(12, dtype=np.uint16)
    offsets = {offset for _ in range(60) for offset in draw_batch(tokens, 4, 8, generator).offsets}
    assert offsets == {0, 1, 2, 3}  # 8 inputs and 1 target fit four times into 12 tokens


def test_the_shortest_corpus_has_one_batch() -> None:
    batch = draw_batch(np.arange(9, dtype=np.uint16), 2, 8, torch.Generator())
    assert batch.offsets == (0, 0)


def test_batches_depend_on_the_given_generator_and_on_nothing_else() -> None:
    one, other = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    torch.manual_seed(1)
    first = [draw_batch(TOKENS, 3, 8, one).offsets for _ in range(5)]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = [draw_batch(TOKENS, 3, 8, other).offsets for _ in range(5)]
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    assert draw_batch(TOKENS, 3, 8, torch.Generator().manual_seed(8)).offsets != first[0]


def test_a_recorded_batch_can_be_made_again_from_its_offsets() -> None:
    drawn = draw_batch(TOKENS, 3, 8, torch.Generator().manual_seed(3))
    again = batch_at(TOKENS, drawn.offsets, 8)
    assert torch.equal(again.x, drawn.x)
    assert torch.equal(again.y, drawn.y)
    assert again.offsets == drawn.offsets


def test_tokens_above_the_signed_16_bit_range_survive() -> None:
    tokens = np.array([65_535, 40_000, 50_256], np.uint16)
    assert batch_at(tokens, [0], 2).y.tolist() == [[40_000, 50_256]]
