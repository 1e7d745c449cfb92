"""The optimizers: AdamW, which decays the weights of matrices and leaves biases and norms alone; plain descent.

Source: Loshchilov, Hutter, *Decoupled Weight Decay Regularization* (2019); the groups are those of
`configure_optimizers` in karpathy/build-nanogpt.
"""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import nn

from lm.config import OptimizerConfig


def build(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that a config names, over all parameters of a model; after the model moved to its device."""
    return SGD(model.parameters(), lr=config.lr) if config.kind == "sgd" else adamw(model, config)


@final
class SGD(torch.optim.Optimizer):
    """Gradient descent with nothing to it: w - lr * g, the product rounded first, as the lectures write it.

    `torch.optim.SGD` takes product and sum in one step, whose last bit is another.
    """

    def __init__(self, params: Any, *, lr: float) -> None:
        """Keeps no state."""
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None  # only for optimizers that evaluate the loss themselves
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter += -group["lr"] * parameter.grad


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over all parameters of a model, in two groups.

    Those with two dimensions or more decay, the rest does not. It is torch's fused kernel, one pass over each weight;
    the unfused update takes its square roots from MKL, which on a CPU are not the same in every run. Build it after
    the model has moved to its device.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decaying = [parameter for parameter in parameters if parameter.dim() >= 2]
    resting = [parameter for parameter in parameters if parameter.dim() < 2]
    groups = [
        {"params": decaying, "weight_decay": config.weight_decay},
        {"params": resting, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next update, for every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
