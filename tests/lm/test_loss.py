import math

import pytest
import torch

from bpetok.errors import DataError
from lm.batches import IGNORE
from lm.loss import bits_per_byte, count_targets, cross_entropy, token_losses


def test_the_loss_is_the_mean_of_minus_log_chance_computed_by_hand() -> None:
    # Chances 1/4 3/4 and 1/2 1/2; targets 0 and 1; the third is masked.
    logits_BTV = torch.tensor([[[1.0, 3.0], [5.0, 5.0], [9.0, 1.0]]]).log()
    targets_BT = torch.tensor([[0, 1, IGNORE]])
    assert cross_entropy(logits_BTV, targets_BT).item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert token_losses(logits_BTV, targets_BT).tolist() == [
        [pytest.approx(math.log(4)), pytest.approx(math.log(2)), 0.0]
    ]
    assert count_targets(targets_BT) == 2


def test_a_batch_without_a_target_has_no_loss_and_no_gradient() -> None:
    logits_BTV = torch.randn(1, 2, 3, requires_grad=True)
    loss = cross_entropy(logits_BTV, torch.full((1, 2), IGNORE))
    loss.backward()
    assert loss.item() == 0 and logits_BTV.grad is not None and logits_BTV.grad.abs().max() == 0


def test_losses_of_parts_over_the_whole_count_sum_to_the_loss_of_the_whole() -> None:
    torch.manual_seed(0)
    logits_BTV, targets_BT = torch.randn(4, 6, 9), torch.randint(9, (4, 6))
    targets_BT[0, 1:] = IGNORE  # so that a mean of means would be another number
    count = count_targets(targets_BT)
    parts = [cross_entropy(logits_BTV[part], targets_BT[part], count=count) for part in (slice(1), slice(1, 4))]
    assert sum(part.item() for part in parts) == pytest.approx(cross_entropy(logits_BTV, targets_BT).item())


def test_half_precision_logits_lose_nothing_in_the_sum() -> None:
    logits_BTV = torch.zeros(1, 1, 50_000, dtype=torch.bfloat16)
    assert cross_entropy(logits_BTV, torch.zeros(1, 1, dtype=torch.int64)).item() == pytest.approx(math.log(50_000))


def test_one_nat_a_byte_is_so_many_bits() -> None:
    assert bits_per_byte(7.0, 7) == pytest.approx(1.4426950408889634)


def test_bits_of_no_bytes_are_refused() -> None:
    with pytest.raises(DataError, match=r"bits per byte: bytes must be at least 1, got 0"):
        bits_per_byte(1.0, 0)
