"""Muon: momentum whose every singular value is made about 1, for the matrices within a model; AdamW for the rest.

A gradient's few great directions drown the many small ones. Muon replaces the momentum U S V^T by about U V^T, so that
each direction moves the same; a Newton-Schulz iteration finds it by matrix products alone.

Source: Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein, *Muon: An optimizer for hidden layers in neural networks*
(2024, https://kellerjordan.github.io/posts/muon/): the coefficients, five iterations, Nesterov momentum, the factor
sqrt(rows / columns) of a matrix with more rows, and queries, keys and values each for itself. Decoupled weight decay:
Liu et al., *Muon is Scalable for LLM Training* (2025), section 2.2.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of x -> a x + b x^3 + c x^5 on each singular value: steepest at 0, and at last within about 0.7 to 1.2."""

ITERATIONS = 5
_TINY = 1e-7  # what a matrix of zeros is divided by


@torch.no_grad()
def orthogonalized(updates_NRC: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """N matrices with the singular vectors of those given and singular values of about 1 (0.7 to 1.2).

    Singular values below a thousandth of a matrix's norm stay smaller: five iterations lift by 3.4445 ** 5 = 485.

    Args:
        updates_NRC: N matrices of R rows and C columns.
        dtype: of the products; bfloat16 is enough (the post's section on Newton-Schulz).

    Returns:
        matrices of the same shape, in `dtype`.

    >>> a_122 = torch.tensor([[[3.0, 0.0], [0.0, -0.01]]])
    >>> [round(x, 1) for x in orthogonalized(a_122).diagonal(dim1=1, dim2=2)[0].abs().tolist()]
    [0.7, 1.2]

    Cost: 5 * (4 n^2 m + 2 n^3) FLOPs a matrix, n its shorter and m its longer side.
    """
    a, b, c = COEFFICIENTS
    tall = updates_NRC.shape[1] > updates_NRC.shape[2]
    x_NRC = updates_NRC.to(dtype)
    x_NRC = x_NRC.mT if tall else x_NRC  # the shorter side first: the square products are over it
    x_NRC = x_NRC / x_NRC.norm(dim=(1, 2), keepdim=True).clamp(min=_TINY)
    for _ in range(ITERATIONS):
        square_NRR = torch.bmm(x_NRC, x_NRC.mT)
        factor_NRR = torch.baddbmm(square_NRR, square_NRR, square_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, factor_NRR, x_NRC, beta=a)
    return x_NRC.mT if tall else x_NRC


@final
class Muon(torch.optim.Optimizer):
    """One optimizer of two kinds of groups: `kind = "muon"` for matrices, `kind = "adamw"` for all else.

    A Muon group has `lr`, `momentum`, `weight_decay`, `parts` (how many matrices lie under each other in one parameter,
    as queries, keys and values do) and `dtype` (of the products on the CPU; on CUDA they are bfloat16). An AdamW group
    has `lr`, `betas`, `eps` and `weight_decay`, and torch's fused kernel updates it.

    Attributes:
        found_inf: None, or a tensor of one float on the device: where it is 1, `step` changes nothing, and nobody has
            to wait for the device to know. torch's fused AdamW has the same attribute.
    """

    found_inf: Tensor | None = None

    def __init__(self, groups: Sequence[dict[str, Any]], *, lr: float) -> None:
        """Groups as above; `lr` is for those that have none of their own."""
        # `fused` tells torch, which loads a state, to keep the count of steps where the weights are.
        super().__init__([{**group, "fused": group["kind"] == "adamw"} for group in groups], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None  # only for optimizers that evaluate the loss themselves
        for group in self.param_groups:
            if any(parameter.grad is not None for parameter in group["params"]):
                if group["kind"] == "muon":
                    self._step_matrices(group)
                else:
                    self._step_rest(group)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        for parameters in _of_one_shape(group["params"]):
            states = [self.state[parameter] for parameter in parameters]
            for parameter, state in zip(parameters, states, strict=True):
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
            buffers = [_local(state["momentum_buffer"]) for state in states]
            updates = _nesterov(buffers, [_local(_gradient(p)) for p in parameters], group["momentum"], self.found_inf)
            directions_NRC = self._directions(parameters, updates, group)
            self._apply(parameters, directions_NRC, group)

    def _directions(self, parameters: Sequence[Tensor], updates: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        """directions_NRC, of whole parameters, each part of which is orthogonal."""
        whole = [_whole(update, like) for update, like in zip(updates, parameters, strict=True)]
        stacked_NRC = torch.stack(whole)
        (number, rows, columns), parts = stacked_NRC.shape, group["parts"]
        dtype = torch.bfloat16 if stacked_NRC.is_cuda else group["dtype"]
        directions = orthogonalized(stacked_NRC.view(number * parts, rows // parts, columns), dtype=dtype)
        # An orthogonal matrix of R rows maps a vector to one of sqrt(C / R) of its mean square, where R > C.
        scale = math.sqrt(max(1.0, rows / parts / columns))
        return directions.reshape(number, rows, columns).to(stacked_NRC.dtype) * scale

    def _apply(self, parameters: Sequence[Tensor], directions_NRC: Tensor, group: dict[str, Any]) -> None:
        rate: float | Tensor = -group["lr"]
        decay: float | Tensor = 1 - group["lr"] * group["weight_decay"]
        if self.found_inf is not None:
            stop = self.found_inf.to(directions_NRC.device) != 0
            rate, decay = (torch.where(stop, off, on) for off, on in ((0.0, rate), (1.0, decay)))
        steps_NRC = directions_NRC * rate
        local = [_local(parameter) for parameter in parameters]
        torch._foreach_mul_(local, decay)
        torch._foreach_add_(local, [_part(step, p) for step, p in zip(steps_NRC.unbind(), parameters, strict=True)])

    def _step_rest(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        of = {what: [self.state[p][what] for p in parameters] for what in ("exp_avg", "exp_avg_sq", "step")}
        adamw(
            parameters,
            [_gradient(parameter) for parameter in parameters],
            of["exp_avg"],
            of["exp_avg_sq"],
            [],
            of["step"],
            fused=True,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _of_one_shape(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Those that have a gradient, the alike together: they are orthogonalised in one product."""
    alike: dict[tuple[torch.Size, torch.device, torch.dtype], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            alike.setdefault((parameter.shape, parameter.device, parameter.dtype), []).append(parameter)
    yield from alike.values()


def _nesterov(
    buffers: Sequence[Tensor], gradients: Sequence[Tensor], momentum: float, found_inf: Tensor | None
) -> Sequence[Tensor]:
    """Moves the buffers towards the gradients; the updates, of which the gradient has a part once more."""
    if found_inf is not None:
        # A buffer in its gradient's place: it moves nowhere, and nothing infinite goes on.
        stop = found_inf.to(buffers[0].device) != 0
        gradients = [torch.where(stop, old, new) for old, new in zip(buffers, gradients, strict=True)]
    torch._foreach_lerp_(list(buffers), list(gradients), 1 - momentum)
    return torch._foreach_lerp(list(gradients), list(buffers), momentum)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # those without one were left out
    return parameter.grad


def _is_shared(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which this process may have but a part (FSDP); to import the class takes 0.5 s."""
    return hasattr(tensor, "to_local")


def _local(tensor: Any) -> Tensor:
    """What this process holds of a tensor."""
    local: Tensor = tensor.to_local() if _is_shared(tensor) else tensor
    return local


def _whole(local: Tensor, like: Any) -> Tensor:
    """All of a tensor, of which this process has `local`; every process computes the same matrices then."""
    if not _is_shared(like):
        return local
    from torch.distributed.tensor import DTensor

    placed = {"run_check": False, "shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(local, like.device_mesh, like.placements, **placed).full_tensor()


def _part(whole: Tensor, like: Any) -> Tensor:
    """What this process holds of `like`, out of a tensor that all have whole."""
    if not _is_shared(like):
        return whole
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = [Replicate()] * like.device_mesh.ndim
    replicated = DTensor.from_local(whole, like.device_mesh, everywhere, run_check=False)
    return replicated.redistribute(placements=like.placements).to_local()
