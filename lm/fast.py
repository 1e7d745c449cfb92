"""The fast path: rungs 3, 4 and 6 trained with gradients by hand, many seeds at once.

A step of the MLP is some twenty small operations, and the readable loop spends four fifths of its time between them:
in autograd's graph, in new tensors, in a loop over the parameters. Here there is no graph, each operation writes into
a tensor that was there before (`out=`), and each tensor has a leading axis S of seeds, so that S models share what
Python costs. The rungs' own files stay the definition: a fast network copies the weights of readable models and puts
them back, and a run here is the readable run but for the order of some sums.

    models -> FastNetwork -> step, step, ... -> write_back -> the same models, trained

    S seeds   B examples of a batch   M rows: B times the positions that are left   I inputs   O outputs
    V vocab   W window   E width of an embedding   N windows of the split   K steps of a chunk

`train` is all that a caller needs. `lm.backward` derives the gradients that are only stated here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar, final

import torch
from torch import Tensor, nn

from bpetok.errors import DataError
from lm.errors import NonFiniteError, require
from lm.models import layers
from lm.models.batchnorm import BatchNorm, BatchNormMLP
from lm.models.contract import WindowModel
from lm.models.mlp import MLP
from lm.models.wavenet import WaveNet

RUNGS = (MLP, BatchNormMLP, WaveNet)
"""What can be trained here: chains, whose modules stand in the order in which they are called."""

CHUNK = 250
"""K: steps whose batches are drawn at once, and after which the losses are looked at."""

Model = TypeVar("Model", bound=WindowModel)

State = dict[str, Tensor]
"""What S models keep, stacked, by the names of `state_dict`: each (S, rows, columns), a vector as one row."""


def seeded(build: Callable[[], Model], seed: int) -> tuple[Model, torch.Generator]:
    """The model that `build` makes after `torch.manual_seed(seed)`, and a generator in the state that this leaves.

    The lectures draw weights and batches from one generator. The global one is as it was, afterwards.

    >>> from lm.models.mlp import MLPConfig
    >>> config = MLPConfig(context=16, window=3, embedding=10, hidden=200)
    >>> model, generator = seeded(lambda: MLP(config, vocab_size=27), seed=1)
    >>> _, again = seeded(lambda: MLP(config, vocab_size=27), seed=1)
    >>> torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=again))
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        return model, torch.Generator().set_state(torch.get_rng_state())


def train(
    models: Sequence[WindowModel],
    inputs_NW: Tensor,
    targets_N: Tensor,
    *,
    generators: Sequence[torch.Generator],
    steps: int,
    rate: Callable[[int], float],
    batch: int = 32,
    progress: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Trains each model by plain gradient descent, as the lectures do, and gives the losses.

    In step k a model gets `batch` windows, drawn with replacement by its own generator, as
    `torch.randint(0, N, (batch,))` draws them. The models are changed at the end, all of them or none.

    Args:
        models: S of them, of one rung and one shape, on the CPU; see `seeded`.
        inputs_NW: the split's windows of ids.
        targets_N: the id behind each.
        generators: one for each model.
        steps: how many updates.
        rate: the learning rate of a step, counted from 0.
        batch: B, at least 2.
        progress: called after each `CHUNK` of steps with the steps done and the chunk's losses_KS.

    Returns:
        losses_KS: of each step and seed, in nats, before the step's update.

    Raises:
        ConfigError: if the models are not alike or of no rung in `RUNGS`, or a number is out of range.
        DataError: if the shapes of the data do not fit, or an id is not in [0, V).
        NonFiniteError: if a loss or a weight has become nan or infinite; the models are as they were.

    Cost:
        A third of the lecture's loop for the MLP, a quarter for the others; eight seeds cost four to five times one.
        With one thread (`torch.set_num_threads`): the tensors are too small to share out (benchmarks/LOG.md).
    """
    require(len(generators) == len(models), "fast: generators", f"{len(models)}, one a model", len(generators))
    require(steps >= 1, "fast: steps", "at least 1", steps)
    network = FastNetwork(models, batch)
    _check_data(models[0], inputs_NW, targets_N)
    losses_KS = torch.empty(steps, len(models), dtype=network.embedding.out.data.dtype)
    # Inference mode takes a tenth off a step: torch keeps no count of who has changed which tensor.
    with torch.inference_mode():
        for start in range(0, steps, CHUNK):
            chunk = range(start, min(start + CHUNK, steps))
            at_KSB = torch.stack(
                [torch.randint(len(targets_N), (len(chunk), batch), generator=g) for g in generators], 1
            )
            chunk_losses_KS = losses_KS[start : chunk.stop]
            network.steps(inputs_NW[at_KSB], targets_N[at_KSB], [rate(step) for step in chunk], chunk_losses_KS)
            _require_finite(chunk_losses_KS, network.state, start)
            if progress:
                progress(chunk.stop, chunk_losses_KS)
    network.write_back()
    return losses_KS


# ---- the parts of a network -----------------------------------------------------------------------------------------
# A number as an operand costs a microsecond, for it becomes a tensor each time: constants are tensors here.


class Cell(NamedTuple):
    """Numbers between two layers and the loss's gradient for them, (S, rows, columns); each step writes them anew."""

    data: Tensor
    grad: Tensor

    @classmethod
    def like(cls, data: Tensor) -> "Cell":
        """A cell of its own, of the same shape."""
        return cls(torch.empty_like(data), torch.empty_like(data))

    def joined(self, n: int) -> "Cell":
        """The same cell with each n rows that follow each other side by side: (S, M, I) -> (S, M / n, n * I)."""
        seeds, rows, columns = self.data.shape
        return Cell(*(tensor.view(seeds, rows // n, n * columns) for tensor in self))


class Layer(Protocol):
    """One operation, tied at its making to the cells that it reads and writes.

    Parameters have no cell: `backward` moves them at once, and where it can by the very operation that computes their
    gradient, which then is never stored.
    """

    out: Cell

    def forward(self) -> None:
        """Writes `out.data`."""

    def backward(self, rate: float) -> None:
        """From `out.grad`, writes the gradient of the input, then moves the parameters by -rate times theirs."""


@final
class Embedding:
    """out = the table's rows at some ids. Backwards: each row gets the sum of the gradients of its copies."""

    def __init__(self, table_SVE: Tensor, rows: int) -> None:
        """`rows` is M, the ids of a batch."""
        seeds, self.vocab_size, width = table_SVE.shape
        self.out = Cell.like(table_SVE.new_empty(seeds, rows, width))
        self.flat_table = table_SVE.view(-1, width)
        self.gradient = torch.empty_like(self.flat_table)
        self.flat_out = Cell(*(tensor.view(-1, width) for tensor in self.out))

    def places(self, ids_KSM: Tensor) -> Tensor:
        """Each id's row in the S tables laid below each other, with S and M as one dimension: s * V + id."""
        first_S1 = torch.arange(ids_KSM.shape[1])[:, None] * self.vocab_size
        return (first_S1 + ids_KSM).flatten(1)

    def forward(self, places: Tensor) -> None:
        """One lookup for all seeds; `places` are one step's."""
        self.at = places
        torch.index_select(self.flat_table, 0, places, out=self.flat_out.data)

    def backward(self, rate: float) -> None:
        """Moves the table; ids have no gradient."""
        # Summed apart: a hundred copies of one row, each added to the table itself, would be rounded a hundred times.
        self.gradient.zero_().index_add_(0, self.at, self.flat_out.grad)
        self.flat_table.sub_(self.gradient, alpha=rate)


@final
class Linear:
    """out = x @ weight + bias. Backwards: d_weight = x^T @ d, d_bias = the sum of d's rows, d_x = d @ weight^T."""

    def __init__(self, x_SMI: Cell, weight_SIO: Tensor, bias_S1O: Tensor | None) -> None:
        """`bias_S1O` is None for a layer without one."""
        self.x, self.weight_SIO, self.bias_S1O = x_SMI, weight_SIO, bias_S1O
        self.x_SIM, self.weight_SOI = x_SMI.data.mT, weight_SIO.mT
        self.ones_S1M = torch.ones_like(x_SMI.data[..., :1]).mT.contiguous()
        self.out = Cell.like(x_SMI.data.new_empty(*x_SMI.data.shape[:2], weight_SIO.shape[2]))

    def forward(self) -> None:
        """One product for each seed."""
        torch.bmm(self.x.data, self.weight_SIO, out=self.out.data)
        if self.bias_S1O is not None:
            self.out.data.add_(self.bias_S1O)  # baddbmm, the two in one, takes longer

    def backward(self, rate: float) -> None:
        """Two products for each seed; the input's comes first, by the weights of the forward pass."""
        torch.bmm(self.out.grad, self.weight_SOI, out=self.x.grad)
        self.weight_SIO.baddbmm_(self.x_SIM, self.out.grad, alpha=-rate)
        if self.bias_S1O is not None:
            self.bias_S1O.baddbmm_(self.ones_S1M, self.out.grad, alpha=-rate)


_tanh_backward = torch.ops.aten.tanh_backward.grad_input


@final
class Tanh:
    """out = tanh x, in place. Backwards, in place too: d_x = d * (1 - out^2)."""

    def __init__(self, x: Cell) -> None:
        """`x` is also the output: no layer below needs what it has put out."""
        self.out = x

    def forward(self) -> None:
        """One pass."""
        self.out.data.tanh_()

    def backward(self, rate: float) -> None:
        """One pass, by autograd's own kernel."""
        _tanh_backward(self.out.grad, self.out.data, grad_input=self.out.grad)


@final
class Normalize:
    """BatchNorm: out = gain * c / s + bias, with c = x - mean(x) and s^2 = sum(c^2) / (M - 1) + eps, over M rows.

    Backwards, with mean and s depending on x too:
    d_bias = sum(d), d_gain = sum(d * c) / s, d_x = gain / s * (d - d_bias / M - c / s * d_gain / (M - 1)).

    c takes the place of x, and d_x that of d. `out.data` holds c^2 before its turn, and d * c after it.
    """

    def __init__(self, x_SMO: Cell, module: BatchNorm | layers.BatchNorm1d, state: State, name: str) -> None:
        """`module` is one model's; its parameters and running figures come from `state`, under `name`."""
        early = isinstance(module, BatchNorm)  # part 3's, which part 5 wrote anew with other names
        gain, bias, spread = ("gain", "bias", "running_std") if early else ("gamma", "beta", "running_var")
        self.gain_S1O, self.bias_S1O = state[f"{name}.{gain}"], state[f"{name}.{bias}"]
        self.running_mean_S1O = state[f"{name}.running_mean"]
        self.running_spread_S1O = state[f"{name}.{spread}"]
        self.momentum = module.momentum
        self.rows = x_SMO.data.shape[1]
        self.eps = x_SMO.data.new_tensor(0.0 if isinstance(module, BatchNorm) else module.eps)
        one_S1M = torch.ones_like(x_SMO.data[..., :1]).mT
        self.over_rows_S1M, self.over_rest_S1M = one_S1M / self.rows, one_S1M / (self.rows - 1)
        self.c_SMO = x_SMO.data
        self.out = Cell(torch.empty_like(x_SMO.data), x_SMO.grad)
        self.mean_S1O, self.var_S1O, self.s_S1O, self.scale_S1O = (torch.empty_like(self.gain_S1O) for _ in range(4))
        self.d_gain_S1O, self.d_bias_S1O, self.slope_S1O = (torch.empty_like(self.gain_S1O) for _ in range(3))
        self.spread_S1O = self.s_S1O if early else self.var_S1O

    def forward(self) -> None:
        """`out.data`, and the running figures a step further."""
        out_SMO = self.out.data
        torch.bmm(self.over_rows_S1M, self.c_SMO, out=self.mean_S1O)  # mean(out=) takes ten times as long
        self.c_SMO.sub_(self.mean_S1O)
        torch.mul(self.c_SMO, self.c_SMO, out=out_SMO)
        torch.bmm(self.over_rest_S1M, out_SMO, out=self.var_S1O)
        torch.add(self.var_S1O, self.eps, out=self.s_S1O).sqrt_()
        torch.div(self.gain_S1O, self.s_S1O, out=self.scale_S1O)
        torch.addcmul(self.bias_S1O, self.c_SMO, self.scale_S1O, out=out_SMO)
        self.running_mean_S1O.lerp_(self.mean_S1O, self.momentum)
        self.running_spread_S1O.lerp_(self.spread_S1O, self.momentum)

    def backward(self, rate: float) -> None:
        """As in the class's docstring."""
        d_SMO = self.out.grad
        torch.sum(d_SMO, 1, keepdim=True, out=self.d_bias_S1O)
        torch.mul(d_SMO, self.c_SMO, out=self.out.data)
        torch.sum(self.out.data, 1, keepdim=True, out=self.d_gain_S1O).div_(self.s_S1O)
        torch.div(self.d_gain_S1O, self.s_S1O, out=self.slope_S1O)
        d_SMO.addcmul_(self.c_SMO, self.slope_S1O, value=-1 / (self.rows - 1))
        d_SMO.sub_(self.d_bias_S1O, alpha=1 / self.rows).mul_(self.scale_S1O)
        self.gain_S1O.sub_(self.d_gain_S1O, alpha=rate)
        self.bias_S1O.sub_(self.d_bias_S1O, alpha=rate)


@final
class CrossEntropy:
    """loss = the sum over B of -log p(target), p = softmax(logits). Backwards: d = p - one_hot(target).

    Of the sum, not the mean: the rate is divided by B once instead of d in each step.
    """

    def __init__(self, logits_SBV: Cell) -> None:
        """Over the network's last cell."""
        self.logits = logits_SBV
        self.log_p_SBV = torch.empty_like(logits_SBV.data)
        self.minus = torch.full_like(self.log_p_SBV[..., 0].flatten(), -1)
        self.flat_log_p, self.flat_d = self.log_p_SBV.view(-1), logits_SBV.grad.view(-1)

    def places(self, targets_KSB: Tensor) -> Tensor:
        """Where each target's logit stands among all S * B * V, with S and B as one dimension."""
        first_SB = torch.arange(self.minus.numel()).view(targets_KSB.shape[1:]) * self.log_p_SBV.shape[2]
        return (first_SB + targets_KSB).flatten(1)

    def forward(self, places: Tensor, chosen: Tensor) -> None:
        """Writes the targets' log p to `chosen`; `places` are one step's."""
        self.at = places
        torch.log_softmax(self.logits.data, 2, out=self.log_p_SBV)
        torch.index_select(self.flat_log_p, 0, places, out=chosen)

    def backward(self) -> None:
        """The gradient of the logits."""
        torch.exp(self.log_p_SBV, out=self.logits.grad)
        self.flat_d.index_add_(0, self.at, self.minus)


# ---- the network ----------------------------------------------------------------------------------------------------


@final
class FastNetwork:
    """S models of one rung as one chain of layers, from ids to the loss.

    Attributes:
        state: their parameters and buffers, stacked; the models are not touched before `write_back`.
        layers: in the order of the models' modules, without the embedding before them and the loss behind.
    """

    def __init__(self, models: Sequence[WindowModel], batch: int) -> None:
        """Copies the weights of `models`, for steps of `batch` windows each; raises ConfigError, as `train` does."""
        _check_models(models, batch)
        self.models = models
        self.state: State = {name: _stack(models, name) for name in models[0].state_dict()}
        self.embedding = Embedding(self.state["embedding.weight"], batch * models[0].window)
        self.layers: list[Layer] = []
        x = self.embedding.out
        for name, module in models[0].named_modules():
            if isinstance(module, layers.FlattenConsecutive):
                x = x.joined(module.n)
            elif layer := _layer(x, module, self.state, name):
                self.layers.append(layer)
                x = layer.out
        self.loss = CrossEntropy(x)

    def steps(self, inputs_KSBW: Tensor, targets_KSB: Tensor, rates: Sequence[float], losses_KS: Tensor) -> None:
        """K steps; writes the loss before each update to `losses_KS`."""
        inputs, targets = self.embedding.places(inputs_KSBW.flatten(2)), self.loss.places(targets_KSB)
        chosen = torch.empty_like(targets, dtype=losses_KS.dtype)
        # Taken apart here: a view made within the loop takes as long as an operation.
        for at, target, loss, rate in zip(inputs.unbind(), targets.unbind(), chosen.unbind(), rates, strict=True):
            self._step(at, target, loss, rate / targets_KSB.shape[2])
        torch.mean(chosen.view(targets_KSB.shape), 2, out=losses_KS).neg_()

    def _step(self, inputs: Tensor, targets: Tensor, chosen: Tensor, rate: float) -> None:
        self.embedding.forward(inputs)
        for layer in self.layers:
            layer.forward()
        self.loss.forward(targets, chosen)
        self.loss.backward()
        for layer in reversed(self.layers):
            layer.backward(rate)
        self.embedding.backward(rate)

    def write_back(self) -> None:
        """Copies everything into the models."""
        for seed, model in enumerate(self.models):
            for name, tensor in model.state_dict().items():
                tensor.copy_(self.state[name][seed].view_as(tensor))


def _layer(x: Cell, module: nn.Module, state: State, name: str) -> Layer | None:
    """The fast layer of a module; None for containers, and for the embedding, which stands before the layers."""
    if isinstance(module, layers.Linear):
        return Linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))
    if isinstance(module, BatchNorm | layers.BatchNorm1d):
        return Normalize(x, module, state, name)
    return Tanh(x) if isinstance(module, nn.Tanh) else None


def _stack(models: Sequence[nn.Module], name: str) -> Tensor:
    """(S, rows, columns); a vector is one row."""
    tensors = [model.state_dict()[name] for model in models]
    return torch.stack([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors])


# ---- checks ---------------------------------------------------------------------------------------------------------


def _check_models(models: Sequence[WindowModel], batch: int) -> None:
    require(len(models) >= 1, "fast: models", "one or more", len(models))
    require(batch >= 2, "fast: batch", "at least 2", batch)  # a variance of one example is 0 / 0
    for model in models:
        rungs = ", ".join(rung.__name__ for rung in RUNGS)
        require(isinstance(model, RUNGS), "fast: models", f"of {rungs}", type(model).__name__, "train it by lm.train")
        shapes, first = ({name: tuple(t.shape) for name, t in m.state_dict().items()} for m in (model, models[0]))
        require(shapes == first, "fast: models", f"of one shape, {first}", shapes)
        device = next(model.parameters()).device.type
        require(device == "cpu", "fast: models", "on the CPU", device)


def _check_data(model: WindowModel, inputs_NW: Tensor, targets_N: Tensor) -> None:
    wanted = (len(targets_N), model.window)
    if tuple(inputs_NW.shape) != wanted or targets_N.dim() != 1 or not len(targets_N):
        raise DataError(
            f"fast: inputs must be N windows of {model.window} ids with N targets, N at least 1, "
            f"got {tuple(inputs_NW.shape)} and {tuple(targets_N.shape)}"
        )
    for ids in (inputs_NW, targets_N):
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= model.vocab_size:
            wrong = lowest if lowest < 0 else highest
            raise DataError(
                f"fast: ids must be in [0, {model.vocab_size}), got {wrong}", hint="is it another alphabet?"
            )


def _require_finite(losses_KS: Tensor, state: State, start: int) -> None:
    wrong = (~losses_KS.isfinite()).nonzero()
    if len(wrong):
        step, seed = wrong[0].tolist()
        raise NonFiniteError(
            f"fast: the loss of step {start + step}, model {seed}, must be finite, got {losses_KS[step, seed].item()}",
            hint="a smaller learning rate; the models are as they were before the training",
        )
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise NonFiniteError(
            f"fast: the weights after step {start + len(losses_KS) - 1} must be finite, got nan or inf",
            hint="a smaller learning rate; the models are as they were before the training",
        )
