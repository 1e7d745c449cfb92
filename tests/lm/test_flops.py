import pytest
import torch
from torch import nn

from lm.errors import ConfigError
from lm.events import StepEvent
from lm.flops import Throughput, flops_per_token, mfu, progress_note
from lm.models.gpt2 import GPT2, SIZES, GPT2Config
from lm.models.mlp import MLP, MLPConfig
from lm.models.modern import Modern, ModernConfig


def on_meta(config: GPT2Config, vocab_size: int) -> GPT2:
    with torch.device("meta"):
        return GPT2(config, vocab_size)


def test_gpt2_124m_takes_the_published_operations_padded_or_not() -> None:
    # N = 50,257 * 768 + 12 * 12 * 768**2: no positions, biases, norms and no padding.
    assert 50_257 * 768 + 12 * 12 * 768**2 == 123_532_032
    assert 6 * 123_532_032 + 12 * 12 * 12 * 64 * 1024 == 854_438_400
    published = GPT2Config(context=1024, layers=12, heads=12, width=768, vocab_multiple=1)
    assert flops_per_token(on_meta(published, 50_257), 1024) == 854_438_400
    assert flops_per_token(on_meta(SIZES["gpt2-124m"], 50_257), 1024) == 854_438_400


def test_torch_counts_the_same_operations_in_a_step() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = GPT2(GPT2Config(context=16, layers=2, heads=2, width=32), vocab_size=128)  # nothing is padded
    # The fused kernel of a CPU is not among those that torch can count.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, 16, dtype=torch.int64)).sum().backward()
    needed = flops_per_token(model, 16)
    assert needed is not None
    assert counter.get_total_flops() == 3 * 16 * needed


def test_an_untied_head_is_counted_once_and_the_table_it_left_not_at_all() -> None:
    sizes = {"context": 16, "layers": 2, "heads": 2, "width": 32}
    with torch.device("meta"):
        modern = Modern(ModernConfig(**sizes), vocab_size=100)
    assert flops_per_token(modern, 16) == flops_per_token(on_meta(GPT2Config(**sizes), 100), 16)


def test_other_rungs_have_no_formula() -> None:
    mlp = MLP(MLPConfig(context=8, window=3, embedding=4, hidden=16, init="kaiming"), 27)
    assert flops_per_token(mlp, 8) is None
    assert flops_per_token(nn.Linear(2, 2), 8) is None


def test_mfu_is_the_share_of_the_peak_of_all_devices_or_unknown() -> None:
    one = mfu(1e9, 98_900, "NVIDIA H100 80GB HBM3", torch.bfloat16)
    assert one == pytest.approx(0.1)
    assert mfu(1e9, 98_900, "NVIDIA H100 80GB HBM3", torch.bfloat16, world_size=8) == pytest.approx(0.1 / 8)
    assert mfu(1e9, 1e5, "cpu", torch.float32) is None
    assert mfu(None, 1e5, "NVIDIA H100 80GB HBM3", torch.bfloat16) is None
    slow, fast = (mfu(1e9, 1e4, "NVIDIA H200", torch.float32, tf32=tf32) for tf32 in (True, False))
    assert slow is not None and fast is not None and slow < fast


def test_the_rate_leaves_evaluations_and_the_first_step_out() -> None:
    now = 0.0
    rate = Throughput(window=3, clock=lambda: now)
    rates = []
    for step in range(1, 11):
        now += 30.0 if step == 1 else 0.5
        rates.append(rate.step(step * 100))
        if step % 4 == 0:
            now += 1000.0
            rate.pause_ended()
    assert rates == [None, *[200.0] * 9]


def test_the_rate_is_that_of_the_last_steps() -> None:
    now = 0.0
    rate = Throughput(window=2, clock=lambda: now)
    got = []
    for seconds in (1, 1, 1, 4, 4):
        now += seconds
        got.append(rate.step(len(got) * 100 + 100))
    assert got == [None, 100.0, 100.0, 40.0, 25.0]
    with pytest.raises(ConfigError, match="throughput: window must be at least 1, got 0"):
        Throughput(window=0)


def test_a_resumed_runs_tokens_of_before_are_not_in_the_rate() -> None:
    times = iter([0.0, 2.0])
    rate = Throughput(clock=lambda: next(times))
    assert (rate.step(1_000_000), rate.step(1_000_100)) == (None, 50.0)


def test_a_note_has_what_is_known() -> None:
    event = StepEvent(step=1, steps=2, loss=10.98, lr=1e-5, grad_norm=123.456, tokens=5, seconds=1.0)
    assert progress_note(event, 999.6) == "loss 10.980, lr 1.00e-05, grad norm 123.46, 1,000 tokens/s"
