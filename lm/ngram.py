"""N-grams: the next id by the last one or two, first by counting, then as a network of one layer.

Source: Karpathy, *Neural Networks: Zero to Hero*, makemore part 1 ("The spelled-out intro to language
modeling"); Shannon, *A Mathematical Theory of Communication* (1948), section 3, draws text from such tables.
Adds: the ladder's second rung: a likelihood, smoothing, and gradient descent that finds again what counting knows.
Lacks: more than `order - 1` ids of the past, since the table grows as V ** order; and any likeness between ids.
Parameters: V ** order; V * V for the network.

    lines of ids -> windows_NO -> counts -> log_probabilities -> nll, sample        by counting
                 -> windows_N2 -> one_hot_loss or counts_loss -> descend            by gradient descent

A window is `order` ids that follow each other, the last of them the one to predict (N windows, O = order). Figures
by counting are summed in float64. The lecture adds one logarithm after the other in float32, where 228,146 roundings
come together: 2.45409 and 2.45436 on names.txt for what is 2.45401 and, with smoothing 1, 2.45458.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bpetok.errors import DataError
from lm.errors import require

END = 0
"""The id before and behind each line: the `.` of the lecture."""

MOST_CELLS = 2**28


def windows(lines: Iterable[Sequence[int]], order: int) -> Tensor:
    """windows_NO of lines, each with `order - 1` times `END` before it and one behind it.

    So every id and every line's end is predicted once, whatever the order: a line of n ids gives n + 1 windows.
    The windows of a text that is one stream are `ids_N.unfold(0, order, 1)`.

    Raises:
        ConfigError: if the order is below 1.

    >>> windows([[5, 13]], order=3).tolist()
    [[0, 0, 5], [0, 5, 13], [5, 13, 0]]
    """
    require(order >= 1, "ngram: order", "at least 1", order)
    columns: list[list[int]] = [[] for _ in range(order)]
    for line in lines:
        ids = [END] * (order - 1) + [*line, END]
        for place, column in enumerate(columns):
            column += ids[place : place + len(line) + 1]
    return torch.tensor(columns, dtype=torch.int64).T


def counts(windows_NO: Tensor, vocab_size: int) -> Tensor:
    """How often each window occurs: int64, one dimension of V for each of its ids.

    Raises:
        ConfigError: if the table would have more than 2 ** 28 cells (2 GiB).
        DataError: if there are no windows, or an id is not in [0, V).

    >>> counts(windows([[1], [1, 1]], order=2), vocab_size=2).tolist()  # . -> 1 twice, 1 -> . twice, 1 -> 1 once
    [[0, 2], [2, 1]]
    """
    order = windows_NO.shape[1]
    cells = vocab_size**order
    require(cells <= MOST_CELLS, "ngram: vocab_size ** order", f"at most {MOST_CELLS}", cells, "take a smaller order")
    _require_ids(windows_NO, vocab_size)
    cell_N = torch.zeros_like(windows_NO[:, 0])
    for ids_N in windows_NO.T:
        cell_N = cell_N * vocab_size + ids_N
    return torch.bincount(cell_N, minlength=cells).view([vocab_size] * order)


def log_probabilities(counts: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """The logarithm of each id's chance after each history, in float64: histories first, the next id last.

    Args:
        counts: as `counts` gives them.
        smoothing: added to each count, as if each window had been seen that often more; the larger, the closer
            all chances are to 1 / V.

    Returns:
        log p; -inf where nothing was counted and nothing added.

    Raises:
        ConfigError: if the smoothing is negative or not finite.

    >>> chances_VV = log_probabilities(torch.tensor([[3, 1], [0, 0]]), smoothing=1).exp()
    >>> [[round(chance, 4) for chance in row] for row in chances_VV.tolist()]
    [[0.6667, 0.3333], [0.5, 0.5]]
    """
    require(0 <= smoothing < float("inf"), "ngram: smoothing", "finite and at least 0", smoothing)
    smoothed = counts.double() + smoothing
    # A history that was never seen has no chances: the clamp makes its row -inf instead of 0 / 0.
    return smoothed.log() - smoothed.sum(-1, keepdim=True).clamp(min=1e-300).log()


def nll(log_probs: Tensor, windows_NO: Tensor) -> float:
    """The mean negative log likelihood of the windows' last ids, in nats; inf if one of them has no chance.

    An unseen window of an unsmoothed table is infinitely surprising: this is the right answer and no error.

    Raises:
        ConfigError: if the windows are not of the table's order.
        DataError: if there are no windows, or an id is not in [0, V).

    >>> pair_counts = counts(torch.tensor([[0, 0], [0, 1]]), vocab_size=2)
    >>> round(nll(log_probabilities(pair_counts), torch.tensor([[0, 1]])), 4)  # ln 2
    0.6931
    >>> nll(log_probabilities(pair_counts), torch.tensor([[1, 1]]))
    inf
    """
    order = log_probs.dim()
    require(windows_NO.shape[1] == order, "ngram: windows", f"of the table's order {order}", windows_NO.shape[1])
    _require_ids(windows_NO, log_probs.shape[-1])
    return -log_probs[tuple(windows_NO.T)].mean().item()


def sample(log_probs: Tensor, *, seed: int, longest: int = 100) -> Iterator[list[int]]:
    """New lines, as many as are asked for, each drawn id by id until `END` comes or it has `longest` ids.

    Equal seeds give equal lines on one machine and version of torch, not across versions.

    Raises:
        DataError: if a history without counts is reached: smooth the table.

    >>> next(sample(log_probabilities(torch.tensor([[0, 1], [1, 0]])), seed=1))  # certain: . -> 1 -> .
    [1]
    """
    generator = torch.Generator().manual_seed(seed)
    order = log_probs.dim()
    while True:
        ids = [END] * (order - 1)
        while len(ids) < order - 1 + longest:
            history = ids[len(ids) - (order - 1) :]
            chances_V = log_probs[tuple(history)].exp()
            if not chances_V.any():
                raise DataError(f"ngram: history must be one with counts, got {history}", hint="smooth the counts")
            id_ = int(torch.multinomial(chances_V, 1, generator=generator))
            if id_ == END:
                break
            ids.append(id_)
        yield ids[order - 1 :]


def one_hot_loss(weights_VV: Tensor, windows_N2: Tensor, *, decay: float = 0.01) -> Tensor:
    """The loss of the one-layer network, as the lecture writes it: the id as a one-hot row times the weights.

    A one-hot row picks a row of the weights, so these are logits of the next id: log counts, up to a constant.

    Args:
        weights_VV: row = the last id, column = the next one.
        windows_N2: pairs of ids.
        decay: times the mean square of the weights. It pulls all logits to 0, that is all chances to 1 / V,
            just as smoothing does to counts.
    """
    inputs_N, targets_N = windows_N2.unbind(1)
    one_hot_NV = F.one_hot(inputs_N, len(weights_VV)).to(weights_VV.dtype)
    logits_NV = one_hot_NV @ weights_VV
    counts_NV = logits_NV.exp()
    probs_NV = counts_NV / counts_NV.sum(1, keepdim=True)
    likelihood_N = probs_NV[torch.arange(len(targets_N)), targets_N]
    return -likelihood_N.log().mean() + decay * (weights_VV**2).mean()


def counts_loss(weights_VV: Tensor, counts_VV: Tensor, *, decay: float = 0.01) -> Tensor:
    """`one_hot_loss`, fast: equal pairs have equal losses, so each is computed once and weighted by its count."""
    share_VV = (counts_VV / counts_VV.sum()).to(weights_VV.dtype)
    return -(share_VV * weights_VV.log_softmax(1)).sum() + decay * (weights_VV**2).mean()


def descend(loss_of: Callable[[Tensor], Tensor], weights: Tensor, *, lr: float = 50.0) -> Iterator[float]:
    """The loss before each step of plain gradient descent, for as long as it is asked.

    Args:
        loss_of: the loss of the weights.
        weights: with `requires_grad`; changed in place.
        lr: the step is this times the gradient. 50 is large: the gradient of a mean over V * V weights is small.

    >>> weights = torch.tensor([3.75], requires_grad=True)
    >>> losses = descend(lambda w: (w**2).sum(), weights, lr=0.5)
    >>> [next(losses) for _ in range(3)]
    [14.0625, 0.0, 0.0]
    """
    while True:
        loss = loss_of(weights)
        (gradient,) = torch.autograd.grad(loss, weights)
        yield loss.item()
        with torch.no_grad():
            weights -= lr * gradient


def _require_ids(windows_NO: Tensor, vocab_size: int) -> None:
    if len(windows_NO) == 0:
        raise DataError("ngram: windows must be one or more, got none", hint="is the split empty?")
    lowest, highest = int(windows_NO.min()), int(windows_NO.max())
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise DataError(f"ngram: ids must be in [0, {vocab_size}), got {wrong}", hint="is it another alphabet?")
