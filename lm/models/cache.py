"""Keys and values that are kept: a row is read piece by piece, and each piece costs no more than its own positions.

Two caches of one meaning. `KeyValueCache` reads what was written and no more, which a CPU likes best. `StaticCache`
has the same shapes at every step and keeps the place to write at in a tensor, so that a step can be compiled and
captured in a CUDA graph.

Rows of different lengths stand right-aligned: `starts` says how many columns of padding a row has before its first id.
What stands there is never read, and positions are counted from each row's own first id. All rows are fed the same
number of columns in a call; a piece of a prompt is fed with the padding that it holds.
"""

from typing import Self, final

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.errors import require
from lm.models.contract import CausalTransformer

Numbers = list[int] | tuple[int, ...]


@final
class KeyValueCache:
    """A `Reading` whose positions also read all that was fed before; `model.features(ids_BT, cache)` appends T columns.

    Gradients do not flow through it: feed it under `torch.inference_mode` or `torch.no_grad`.

    Cost: layers * 2 * rows * heads * capacity * head_size numbers, made once: 75 MB a row for GPT-2 124M in float32 at
    its whole context. A mask is made only where rows have padding, or several columns are fed behind others.

    >>> from lm.models.gpt2 import GPT2, GPT2Config
    >>> model = GPT2(GPT2Config(context=8, layers=2, heads=2, width=16), vocab_size=100)
    >>> with torch.inference_mode():
    ...     cache = KeyValueCache.for_model(model, rows=1)
    ...     prompt = model.logits(model.features(torch.tensor([[5, 6, 7]]), cache))
    ...     behind = model.logits(model.features(torch.tensor([[8]]), cache))
    >>> cache.length, behind.shape
    (4, torch.Size([1, 1, 100]))
    """

    def __init__(
        self,
        shape_BHSD: tuple[int, int, int, int],
        layers: int,
        *,
        starts: Numbers = (),
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """An empty cache; `for_model` knows the shape."""
        self._keys_BHSD = [torch.empty(shape_BHSD, device=device, dtype=dtype) for _ in range(layers)]
        self._values_BHSD = [torch.empty(shape_BHSD, device=device, dtype=dtype) for _ in range(layers)]
        self._starts = list(starts) if any(starts) else []
        self._starts_B = torch.tensor(self._starts, dtype=torch.int64, device=device)
        self._length = 0
        self._time = 0
        self._mask: Tensor | None = None

    @classmethod
    def for_model(
        cls, model: CausalTransformer, *, rows: int, capacity: int | None = None, starts: Numbers = ()
    ) -> Self:
        """An empty cache for a model, on the device and in the dtype of its weights.

        Args:
            model: whose keys and values it will hold.
            rows: B.
            capacity: the most columns; the model's context unless told.
            starts: how many columns of padding each row begins with; none, if it is empty.

        Raises:
            ConfigError: if an argument is out of its range.
        """
        capacity = _checked(model, rows, capacity, starts)
        weight_PC = model.head_PC
        shape_BHSD = (rows, model.heads, capacity, model.head_size)
        return cls(shape_BHSD, model.layers, starts=starts, device=weight_PC.device, dtype=weight_PC.dtype)

    @property
    def length(self) -> int:
        """How many columns were fed."""
        return self._length

    @property
    def capacity(self) -> int:
        """S, the most columns."""
        return self._keys_BHSD[0].shape[2]

    @property
    def rows(self) -> int:
        """B."""
        return self._keys_BHSD[0].shape[0]

    def keep(self, rows: Numbers) -> None:
        """Keeps these rows and forgets the others; columns that are padding in all that stay are given back.

        Args:
            rows: in rising order, at least one.

        Cost: a copy of what stays, a layer at a time.
        """
        starts = [self._starts[row] for row in rows] if self._starts else []
        shared = min(starts, default=0)
        rows_B = torch.tensor(rows, device=self._starts_B.device)
        stop = self._length - shared
        for tensors in (self._keys_BHSD, self._values_BHSD):
            for layer, old_BHSD in enumerate(tensors):
                kept_BHSD = old_BHSD[:, :, shared : self._length].index_select(0, rows_B)  # a copy: it may overlap
                tensors[layer] = old_BHSD[: len(rows)]
                tensors[layer][:, :, :stop] = kept_BHSD
        self._length = stop
        self._starts = [start - shared for start in starts] if max(starts, default=0) > shared else []
        self._starts_B = torch.tensor(self._starts, dtype=torch.int64, device=rows_B.device)

    def positions(self, ids_BT: Tensor) -> Tensor:
        """Where the new columns stand in their rows: positions_T, or positions_BT where rows have padding.

        Raises:
            ConfigError: if the columns do not fit in, or gradients are recorded.
        """
        rows, self._time = ids_BT.shape
        stop = self._length + self._time
        require(rows == self.rows, "cache: rows", f"{self.rows}, as it was made for", rows)
        require(stop <= self.capacity, "cache: columns", f"at most the capacity of {self.capacity}", stop)
        hint = "read under torch.inference_mode"
        require(not torch.is_grad_enabled(), "cache: gradients", "switched off", "switched on", hint)
        columns_T = torch.arange(self._length, stop, device=ids_BT.device)
        padded, single, first = bool(self._starts), self._time == 1, self._length == 0
        self._mask = None
        if padded or not (single or first):
            self._mask = _mask(columns_T, stop, self._starts_B)
        return _positions(columns_T, self._starts_B)

    def attend(self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, *, dropout: float = 0.0) -> Tensor:
        """y_BHTD, after keys and values were appended; the last layer's call ends the step."""
        assert k_BHTD.shape[2] == self._time, "a model asks for positions before it attends"
        stop = self._length + self._time
        keys_BHSD, values_BHSD = self._keys_BHSD[layer], self._values_BHSD[layer]
        keys_BHSD.narrow(2, self._length, self._time).copy_(k_BHTD)
        values_BHSD.narrow(2, self._length, self._time).copy_(v_BHTD)
        keys_BHSD, values_BHSD = keys_BHSD.narrow(2, 0, stop), values_BHSD.narrow(2, 0, stop)
        causal = self._mask is None and self._time > 1
        if layer == len(self._keys_BHSD) - 1:
            self._length = stop
        return F.scaled_dot_product_attention(
            q_BHTD, keys_BHSD, values_BHSD, attn_mask=self._mask, dropout_p=dropout, is_causal=causal
        )


@final
class StaticCache:
    """The twin of `KeyValueCache` whose shapes never change: what a compiled step or a CUDA graph wants.

    Every call reads all S columns under a mask, and no number of Python's changes from call to call: the number of
    columns fed so far is a tensor, so nothing here can notice that they no longer fit in. Whoever feeds it counts.

    Cost: as `KeyValueCache`; a step reads the whole capacity, so make that no larger than needed.
    """

    def __init__(self, model: CausalTransformer, *, rows: int, capacity: int | None = None) -> None:
        """An empty cache, on the device and in the dtype of the model's weights.

        Args:
            model: whose keys and values it will hold.
            rows: B.
            capacity: S; the model's context unless told.

        Raises:
            ConfigError: if an argument is out of its range.
        """
        self.capacity = _checked(model, rows, capacity, ())
        weight_PC = model.head_PC
        device, shape_BHSD = weight_PC.device, (rows, model.heads, self.capacity, model.head_size)

        def zeros() -> list[Tensor]:
            # Not empty: a weight of 0 on what is masked times nan is nan.
            return [torch.zeros(shape_BHSD, device=device, dtype=weight_PC.dtype) for _ in range(model.layers)]

        self._keys_BHSD, self._values_BHSD = zeros(), zeros()
        self._length_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self._starts_B = torch.zeros(rows, dtype=torch.int64, device=device)
        self._columns_T: Tensor | None = None
        self._mask_B1TS: Tensor | None = None

    def clear(self, starts: Numbers = ()) -> None:
        """Forgets all that was fed.

        Args:
            starts: how many columns of padding each of the next rows begins with; none, if it is empty.
        """
        self._length_1.zero_()
        self._starts_B.copy_(torch.tensor([*starts] or [0] * len(self._starts_B)))

    def positions(self, ids_BT: Tensor) -> Tensor:
        """Where the new columns stand in their rows: positions_BT."""
        self._columns_T = self._length_1 + torch.arange(ids_BT.shape[1], device=ids_BT.device)
        self._mask_B1TS = _mask(self._columns_T, self.capacity, self._starts_B)
        return _positions(self._columns_T, self._starts_B)

    def attend(self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, *, dropout: float = 0.0) -> Tensor:
        """y_BHTD, after keys and values were written; the last layer's call ends the step."""
        assert self._columns_T is not None, "a model asks for positions before it attends"
        keys_BHSD = self._keys_BHSD[layer].index_copy_(2, self._columns_T, k_BHTD)
        values_BHSD = self._values_BHSD[layer].index_copy_(2, self._columns_T, v_BHTD)
        if layer == len(self._keys_BHSD) - 1:
            self._length_1.add_(q_BHTD.shape[2])
        return F.scaled_dot_product_attention(
            q_BHTD, keys_BHSD, values_BHSD, attn_mask=self._mask_B1TS, dropout_p=dropout
        )


def _checked(model: CausalTransformer, rows: int, capacity: int | None, starts: Numbers) -> int:
    """The capacity, after everything was found to be in its range."""
    capacity = model.context if capacity is None else capacity
    require(rows >= 1, "cache: rows", "at least 1", rows)
    fits = 1 <= capacity <= model.context
    require(fits, "cache: capacity", f"at least 1 and at most the context of {model.context}", capacity)
    require(len(starts) in (0, rows), "cache: starts", f"{rows}, one for each row", len(starts))
    inside = all(0 <= start < capacity for start in starts)
    require(inside, "cache: starts", f"in [0, {capacity})", list(starts))
    return capacity


def _positions(columns_T: Tensor, starts_B: Tensor) -> Tensor:
    """positions_T, or positions_BT where there are starts; padding has position 0, which any model knows."""
    return columns_T if len(starts_B) == 0 else (columns_T - starts_B[:, None]).clamp(min=0)


def _mask(columns_T: Tensor, stop: int, starts_B: Tensor) -> Tensor:
    """mask_TS, or mask_B1TS where there are starts, bool: whether new column t may read column s, of `stop` columns.

    Padding reads itself, lest its softmax have nothing to sum over; nobody reads what comes of it.
    """
    columns_S = torch.arange(stop, device=columns_T.device)
    past_TS = columns_S <= columns_T[:, None]
    if len(starts_B) == 0:
        return past_TS
    itself_TS = columns_S == columns_T[:, None]
    return ((past_TS & (columns_S >= starts_B[:, None, None])) | itself_TS)[:, None]
