"""How much a model computes a token, and how near that comes to what the device could (MFU); how fast a run goes.

The operations are those that the model needs, forward and backward: what a kernel computes twice (`run.recompute`,
flash attention's backward pass) or for padding is not counted, nor what a causal mask lets it leave out.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, final

import torch
from torch import nn

from lm.devices import dense_peak
from lm.errors import require
from lm.models.contract import CausalTransformer

if TYPE_CHECKING:
    from lm.events import StepEvent


def flops_per_token(model: nn.Module, context: int) -> int | None:
    """The operations of a training step for each token: 6N + 12*L*H*D*T.

    N is the number of weights that a token is multiplied by: all matrices of the blocks and the head's V rows, once,
    tied or not. Tables that are only looked up in (positions, an embedding that is not also the head), biases, norms
    and the rows that pad the vocabulary are not in it. For GPT-2 124M N is 123,532,032.

    Args:
        model: of any rung.
        context: T, the length of a row in ids.

    Returns:
        None for rungs that are no `CausalTransformer`: they use a weight several times a target, or for windows that
        share nothing, and no formula fits all of them.

    Source: Chowdhery et al., *PaLM* (2022), appendix B; `estimate_mfu` in model.py of karpathy/nanoGPT has the same
    form. 854,438,400 for GPT-2 124M at T = 1024 is the figure published in the same way.

    >>> from lm.models.gpt2 import GPT2, SIZES
    >>> with torch.device("meta"):
    ...     model = GPT2(SIZES["gpt2-124m"], vocab_size=50257)
    >>> f"{flops_per_token(model, 1024):,}"
    '854,438,400'
    """
    if not isinstance(model, CausalTransformer):
        return None
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head_PC = model.head_PC
    matrices = [
        parameter
        for parameter in model.parameters()
        if parameter.dim() >= 2 and id(parameter) not in tables and parameter is not head_PC
    ]
    weights = sum(parameter.numel() for parameter in matrices) + model.vocab_size * head_PC.shape[1]
    return 6 * weights + 12 * model.layers * model.heads * model.head_size * context


def mfu(
    flops: float | None,
    tokens_per_second: float,
    device_name: str,
    dtype: torch.dtype,
    *,
    world_size: int = 1,
    tf32: bool = False,
) -> float | None:
    """Model FLOPs utilisation: the share of the device's dense peak that went into the model, 0 to 1.

    Args:
        flops: of a token, `flops_per_token`.
        tokens_per_second: of all processes together.
        device_name: as torch gives it; every process has such a device.
        dtype: of the matrix products.
        world_size: how many processes there are.
        tf32: as `lm.devices.dense_peak` takes it.

    Returns:
        None where the operations or the peak are not known: better no figure than a wrong one.

    >>> round(mfu(854_438_400, 475_000, "NVIDIA H200", torch.bfloat16), 3)
    0.41
    """
    peak = dense_peak(device_name, dtype, tf32=tf32)
    if flops is None or peak is None:
        return None
    return flops * tokens_per_second / (peak * world_size)


@final
class Throughput:
    """Tokens per second over the last steps; what is done between steps, such as evaluations, does not count.

    The first step is left out too, since compiling falls into it.

    Args:
        window: how many steps.
        clock: gives the time in seconds.

    >>> times = iter([0.0, 1.0, 9.0, 10.0])
    >>> rate = Throughput(clock=lambda: next(times))
    >>> rate.step(100), rate.step(200)  # at 0 s and 1 s
    (None, 100.0)
    >>> rate.pause_ended()  # at 9 s, after an evaluation
    >>> rate.step(300)
    100.0
    """

    def __init__(self, *, window: int = 20, clock: Callable[[], float] = time.perf_counter) -> None:
        """Has seen nothing yet."""
        require(window >= 1, "throughput: window", "at least 1", window)
        self._clock = clock
        self._steps: deque[tuple[int, float]] = deque(maxlen=window)
        self._tokens = 0
        self._since: float | None = None

    def step(self, tokens: int) -> float | None:
        """The rate after a step that has just ended.

        Args:
            tokens: learnt from so far, as `StepEvent.tokens`.

        Returns:
            tokens per second; None after the first step, or where no time has passed.
        """
        now = self._clock()
        if self._since is not None:
            self._steps.append((tokens - self._tokens, now - self._since))
        self._tokens, self._since = tokens, now
        seconds = sum(seconds for _, seconds in self._steps)
        return sum(tokens for tokens, _ in self._steps) / seconds if seconds > 0 else None

    def pause_ended(self) -> None:
        """Something else than a step has just ended: the time since the last step is nobody's."""
        if self._since is not None:
            self._since = self._clock()


def progress_note(event: "StepEvent", tokens_per_second: float | None = None, mfu: float | None = None) -> str:
    """What a progress bar says of a step; what is not known is left out.

    Args:
        event: the step.
        tokens_per_second: `Throughput.step`.
        mfu: 0 to 1.

    >>> from lm.events import StepEvent
    >>> event = StepEvent(step=7, steps=9, loss=3.2871, lr=6e-4, grad_norm=0.8125, tokens=7000, seconds=1.0)
    >>> progress_note(event, 481_234.0, 0.4157)
    'loss 3.287, lr 6.00e-04, grad norm 0.81, 481,234 tokens/s, MFU 41.6 %'
    >>> progress_note(event)
    'loss 3.287, lr 6.00e-04, grad norm 0.81'
    """
    parts = [f"loss {event.loss:.3f}", f"lr {event.lr:.2e}", f"grad norm {event.grad_norm:.2f}"]
    if tokens_per_second is not None:
        parts.append(f"{tokens_per_second:,.0f} tokens/s")
    if mfu is not None:
        parts.append(f"MFU {mfu:.1%}".replace("%", " %"))
    return ", ".join(parts)
