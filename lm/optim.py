"""The optimizers: AdamW, which decays the weights of matrices and leaves biases and norms alone; Muon; plain descent.

Source: Loshchilov, Hutter, *Decoupled Weight Decay Regularization* (2019); the groups are those of
`configure_optimizers` in karpathy/build-nanogpt.
"""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from lm.config import OptimizerConfig
from lm.errors import ConfigError
from lm.muon import Muon


def build(model: nn.Module, config: OptimizerConfig, dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
    """The optimizer that a config names, over all parameters of a model; after the model moved to its device.

    Args:
        model: on its device.
        config: which optimizer, with which settings.
        dtype: of the run's matrix products, and so of Muon's; on CUDA those are bfloat16 in any case.

    Each honours `found_inf`: None, or a tensor of one float; where it is 1, `step` changes nothing.

    Raises:
        ConfigError: if Muon is asked for and the model has no matrices within blocks.
    """
    if config.kind == "muon":
        return muon(model, config, dtype)
    return SGD(model.parameters(), lr=config.lr) if config.kind == "sgd" else adamw(model, config)


@final
class SGD(torch.optim.Optimizer):
    """Gradient descent with nothing to it: w - lr * g, the product rounded first, as the lectures write it.

    `torch.optim.SGD` takes product and sum in one step, whose last bit is another.

    Attributes:
        found_inf: None, or a tensor of one float: where it is 1, `step` changes nothing.
    """

    found_inf: Tensor | None = None

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
                    change = -group["lr"] * parameter.grad
                    if self.found_inf is not None:
                        change = torch.where(self.found_inf.to(parameter.device) != 0, 0.0, change)
                    parameter += change


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


def muon(model: nn.Module, config: OptimizerConfig, dtype: torch.dtype = torch.float32) -> Muon:
    """Muon for the matrices within `blocks`, AdamW in its two groups for all else: embeddings, head, norms, biases.

    A parameter that ends in `qkv.weight` is three matrices under each other, and each is made orthogonal by itself: on
    the char GPT that gains over all in one (benchmarks/LOG.md).

    Raises:
        ConfigError: if there are no such matrices.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    inner = {name: p for name, p in named if name.startswith("blocks.") and p.dim() == 2}
    if not inner:
        message = f"optimizer.kind must be adamw or sgd for a {type(model).__name__}, got 'muon'"
        raise ConfigError(message, hint="Muon is for matrices within blocks, as the transformers have them")
    outer = [parameter for name, parameter in named if name not in inner]
    matrices = {"kind": "muon", "momentum": config.momentum, "weight_decay": config.weight_decay}
    matrices |= {"relative_rate": config.matrix_lr / config.lr, "lr": config.matrix_lr, "dtype": dtype}
    rest = {"kind": "adamw", "betas": config.betas, "eps": config.eps}
    groups = [
        {**matrices, "parts": 3, "params": [p for name, p in inner.items() if name.endswith("qkv.weight")]},
        {**matrices, "parts": 1, "params": [p for name, p in inner.items() if not name.endswith("qkv.weight")]},
        {**rest, "weight_decay": config.weight_decay, "params": [p for p in outer if p.dim() >= 2]},
        {**rest, "weight_decay": 0.0, "params": [p for p in outer if p.dim() < 2]},
    ]
    return Muon([group for group in groups if group["params"]], lr=config.lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next update, for every group; Muon's matrices get theirs in proportion.

    Args:
        optimizer: of `build`.
        rate: of the groups that have no other peak than `optimizer.lr`, as `lm.schedule.rate_at` gives it.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("relative_rate", 1.0)
