"""The ladder: one rung per file, all under the contract of `contract.py`.

`LADDER` maps a rung's name, as a config's `model.rung` spells it, to where it lives. Looking at the ladder is
light: torch is imported only when a rung's `config` or `model` is asked for.

>>> list(LADDER)
['bigram', 'mlp', 'batchnorm', 'wavenet', 'dilated', 'bow', 'rnn', 'gru', 'attention', 'gpt2', 'modern']
>>> LADDER["gpt2"].adds
'the published GPT-2, at any size'
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from lm.models.contract import LanguageModel, RungConfig


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung: its place in the code, and in a few words what it adds to the rung below.

    Args:
        module: the module of the rung.
        model_name: its model class there; the config class is the same with `Config` behind it.
        adds: what it adds to the rung below.
    """

    module: str
    model_name: str
    adds: str

    @property
    def config(self) -> type[RungConfig]:
        """The rung's own config dataclass; imports torch."""
        return cast("type[RungConfig]", getattr(import_module(self.module), f"{self.model_name}Config"))

    def build(self, config: RungConfig, vocab_size: int) -> LanguageModel:
        """An untrained model, its weights drawn from torch's global generator; imports torch."""
        model = getattr(import_module(self.module), self.model_name)
        return cast("LanguageModel", model(config, vocab_size))


LADDER = {
    "bigram": Rung(module="lm.models.bigram", model_name="Bigram", adds="a loss, a gradient, an optimizer"),
    "mlp": Rung(module="lm.models.mlp", model_name="MLP", adds="a window of ids, their vectors, a hidden layer"),
    "batchnorm": Rung(module="lm.models.batchnorm", model_name="BatchNormMLP", adds="normalisation over the batch"),
    "wavenet": Rung(module="lm.models.wavenet", model_name="WaveNet", adds="depth: a tree over a longer window"),
    "dilated": Rung(module="lm.models.dilated", model_name="DilatedWaveNet", adds="the tree, shared along a row"),
    "bow": Rung(module="lm.models.bow", model_name="BagOfWords", adds="the whole row, as an average"),
    "rnn": Rung(module="lm.models.rnn", model_name="RNN", adds="order, by a state that is carried along"),
    "gru": Rung(module="lm.models.rnn", model_name="GRU", adds="gates, so that the state keeps what it needs"),
    "attention": Rung(module="lm.models.attention", model_name="Transformer", adds="averages whose weights are learnt"),
    "gpt2": Rung(module="lm.models.gpt2", model_name="GPT2", adds="the published GPT-2, at any size"),
    "modern": Rung(module="lm.models.modern", model_name="Modern", adds="what was found after GPT-2, at its shapes"),
}
"""Every rung by its name, from the lowest up."""
