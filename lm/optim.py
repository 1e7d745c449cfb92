"""The optimizer: AdamW, which decays the weights of matrices and leaves biases and norms alone.

Source: Loshchilov, Hutter, *Decoupled Weight Decay Regularization* (2019); the groups are those of
`configure_optimizers` in karpathy/build-nanogpt.
"""

import torch
from torch import nn

from lm.config import OptimizerConfig


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
