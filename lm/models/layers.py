"""The lectures' layers, written out: what `torch.nn` has ready made, in lines that can be read.

Source: Karpathy, *Neural Networks: Zero to Hero*, makemore parts 3 and 5. Sums are taken in the lectures' order, so
that runs agree with theirs to the last bit; `nn.Linear`, which adds the bias within the product, would not.
"""

from typing import final

import torch
from torch import Tensor, nn

from lm.errors import require


@final
class Embedding(nn.Module):
    """A table of V vectors of width E, drawn from N(0, 1).

    >>> Embedding(27, 10)(torch.zeros(4, 3, dtype=torch.int64)).shape
    torch.Size([4, 3, 10])
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        """A table drawn from the global generator."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab_size, width))

    def forward(self, ids: Tensor) -> Tensor:
        """The vector of each id, in one more dimension."""
        return self.weight[ids]


@final
class Linear(nn.Module):
    """x @ weight + bias; weight is (inputs, outputs), the transpose of `nn.Linear`'s.

    The rung draws both: how, is what parts 2 to 5 are about.

    >>> Linear(torch.randn(30, 200) / 30**0.5, bias=torch.zeros(200))(torch.zeros(4, 30)).shape
    torch.Size([4, 200])
    """

    def __init__(self, weight: Tensor, *, bias: Tensor | None = None) -> None:
        """A layer of these first weights."""
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        out = x @ self.weight
        return out if self.bias is None else out + self.bias


@final
class BatchNorm1d(nn.Module):
    """Each channel with the mean 0 and the variance 1 over the batch, then scaled and shifted.

    In training by the batch's own figures, over all dimensions but the last; in evaluation by running means of them.
    The variance divides by n - 1 in both (Bessel); torch's own layer normalises by n and keeps n - 1 in the buffer.

    Source: Ioffe, Szegedy, *Batch Normalization* (2015), algorithm 1; part 5 of the lectures, with the mean over
    (0, 1) for three dimensions.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        """A layer that changes nothing of what is normalised already."""
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width), normalised; at least two examples in training."""
        mean, var = self.running_mean, self.running_var
        if self.training:
            require_examples(x)
            examples = list(range(x.ndim - 1))
            mean, var = x.mean(examples, keepdim=True), x.var(examples, keepdim=True)
            self._follow(mean.detach(), var.detach())
        normal = (x - mean) / torch.sqrt(var + self.eps)
        return self.gamma * normal + self.beta

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor) -> None:
        for running, now in ((self.running_mean, mean), (self.running_var, var)):
            running.copy_((1 - self.momentum) * running + self.momentum * now.flatten())


def require_examples(x: Tensor) -> None:
    """Nothing, where x, (..., width), holds at least two examples, which a variance takes.

    Raises:
        ConfigError: if it does not.
    """
    examples = x[..., 0].numel()
    require(examples >= 2, "BatchNorm: examples in a batch", "at least 2", examples, "--set batch.rows=32")


@final
class FlattenConsecutive(nn.Module):
    """Joins n neighbours in time into one vector: (N, T, C) -> (N, T/n, C*n), and (N, C*n) where T = n.

    >>> FlattenConsecutive(2)(torch.zeros(4, 8, 10)).shape, FlattenConsecutive(8)(torch.zeros(4, 8, 10)).shape
    (torch.Size([4, 4, 20]), torch.Size([4, 80]))
    """

    def __init__(self, n: int) -> None:
        """No weights."""
        super().__init__()
        self.n = n

    def forward(self, x_NTC: Tensor) -> Tensor:
        """The joined vectors; T must be a multiple of n."""
        examples, time, width = x_NTC.shape
        joined = x_NTC.reshape(examples, time // self.n, width * self.n)
        return joined.squeeze(1) if joined.shape[1] == 1 else joined
