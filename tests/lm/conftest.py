"""What the tests of lm share: a split in memory, a small tokenizer with its shards, a small run."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import bpetok
import bpetok.shards
from lm.config import BatchConfig, Config, DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from lm.models.attention import TransformerConfig
from lm.models.batchnorm import BatchNormMLPConfig
from lm.models.bigram import BigramConfig
from lm.models.bow import BagOfWordsConfig
from lm.models.dilated import DilatedWaveNetConfig
from lm.models.gpt2 import GPT2Config
from lm.models.mlp import MLPConfig
from lm.models.modern import ModernConfig
from lm.models.rnn import GRUConfig, RNNConfig
from lm.models.wavenet import WaveNetConfig

MODELS = {
    "bigram": BigramConfig(context=8),
    "mlp": MLPConfig(context=8, window=3, embedding=4, hidden=16, init="kaiming"),
    "batchnorm": BatchNormMLPConfig(context=8, window=3, embedding=4, hidden=16),
    "wavenet": WaveNetConfig(context=8, levels=2, embedding=4, hidden=16),
    "dilated": DilatedWaveNetConfig(context=8, levels=2, embedding=4, hidden=16),
    "bow": BagOfWordsConfig(context=8, width=16, hidden=16),
    "rnn": RNNConfig(context=8, embedding=8, hidden=16),
    "gru": GRUConfig(context=8, embedding=8, hidden=16),
    "attention": TransformerConfig(context=8, layers=1, heads=2, width=16, dropout=0.1),
    "gpt2": GPT2Config(context=8, layers=2, heads=2, width=16, dropout=0.1),
    "modern": ModernConfig(context=8, layers=2, heads=2, width=16),
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The models here are too small to share out; threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def texts() -> Path:
    """The folder of names.txt and tinyshakespeare.txt."""
    folder = Path(os.environ.get("BPETOK_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "names.txt").is_file():
        pytest.skip(f"needs the lectures' texts: {folder}/names.txt is not there; BPETOK_DATA names the folder")
    return folder


@dataclasses.dataclass(frozen=True)
class ArraySplit:
    """A split whose ids lie in memory."""

    ids: NDArray[np.uint32]

    @property
    def tokens(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> NDArray[np.uint32]:
        assert 0 <= start <= stop <= self.tokens
        return self.ids[start:stop]


@pytest.fixture(scope="session")
def split_of() -> Callable[[Sequence[int]], ArraySplit]:
    return lambda ids: ArraySplit(np.array(ids, dtype=np.uint32))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Shards of a small text and their tokenizer; the split has some hundred ids and an end that fits no block."""
    folder = tmp_path_factory.mktemp("data")
    documents = [f"The {n} cats sat on {n * 7 % 11} mats, and {n * 5 % 13} dogs did not.\n" for n in range(60)]
    tokenizer = bpetok.train(documents, vocab_size=300, special_tokens=["<|endoftext|>"])
    tokenizer.save(folder / "tokenizer.bpetok")
    bpetok.shards.write(documents, tokenizer, folder / "shards")
    return DataConfig(shards=folder / "shards", tokenizer=folder / "tokenizer.bpetok")


@pytest.fixture
def small_run(data: DataConfig) -> Callable[..., Config]:
    """`small_run(rung="gpt2", steps=4, ...)`: a run of some steps; other keywords go to `[run]`."""

    def make(rung: str = "gpt2", *, steps: int = 4, rows: int = 4, accumulation: int = 2, **run: object) -> Config:
        every = {"eval_every": 100, "eval_batches": 2, "checkpoint_every": 100, **run}
        return Config(
            data=data,
            rung=rung,
            model=MODELS[rung],
            batch=BatchConfig(rows=rows, accumulation=accumulation),
            optimizer=OptimizerConfig(lr=1e-2),
            schedule=ScheduleConfig(warmup_steps=min(2, steps), min_lr=1e-3),
            run=RunConfig(steps=steps, device="cpu", **every),
        )

    return make
