import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.errors import ConfigError
from lm.loss import cross_entropy
from lm.models import gpt2
from lm.models.attention import (
    Block,
    FeedForward,
    Head,
    MultiHead,
    Transformer,
    TransformerConfig,
    average_by_loop,
    average_by_matrix,
    average_by_softmax,
)

CONFIG = TransformerConfig(context=10, layers=2, heads=3, width=12)


def random_x(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


# The steps, from below.


def test_the_three_ways_to_average_are_one() -> None:
    x_BTC = random_x(4, 8, 3, dtype=torch.float64)
    by_loop_BTC = average_by_loop(x_BTC)
    torch.testing.assert_close(average_by_matrix(x_BTC), by_loop_BTC)
    torch.testing.assert_close(average_by_softmax(x_BTC), by_loop_BTC)
    torch.testing.assert_close(by_loop_BTC[:, 0], x_BTC[:, 0])
    torch.testing.assert_close(by_loop_BTC[:, -1], x_BTC.mean(1))


@torch.no_grad()
def test_a_head_that_asks_nothing_is_the_average() -> None:
    head = Head(CONFIG)
    head.query.weight.zero_()
    x_BTC = random_x(2, 10, 12)
    torch.testing.assert_close(head(x_BTC), average_by_softmax(head.value(x_BTC)))


@torch.no_grad()
def test_a_head_is_torchs_scaled_dot_product_attention() -> None:
    head, x_BTC = Head(CONFIG), random_x(2, 10, 12)
    q_BTD, k_BTD, v_BTD = head.query(x_BTC), head.key(x_BTC), head.value(x_BTC)
    torch.testing.assert_close(head(x_BTC), F.scaled_dot_product_attention(q_BTD, k_BTD, v_BTD, is_causal=True))


@torch.no_grad()
def test_many_heads_are_gpt2s_attention() -> None:
    ours, theirs = MultiHead(CONFIG), gpt2.Attention(gpt2.GPT2Config(context=10, layers=2, heads=3, width=12))
    rows = [torch.cat([getattr(head, part).weight for head in ours.heads]) for part in ("query", "key", "value")]
    theirs.qkv.weight.copy_(torch.cat(rows))
    theirs.qkv.bias.zero_()
    theirs.project.load_state_dict(ours.project.state_dict())
    x_BTC = random_x(2, 10, 12)
    torch.testing.assert_close(ours(x_BTC), theirs(x_BTC))


@torch.no_grad()
def test_feed_forward_sees_each_position_for_itself() -> None:
    feedforward, x_BTC = FeedForward(CONFIG), random_x(2, 10, 12)
    alone_BTC = torch.stack([feedforward(x_BTC[:, t : t + 1])[:, 0] for t in range(10)], dim=1)
    torch.testing.assert_close(feedforward(x_BTC), alone_BTC)


@torch.no_grad()
def test_a_block_adds_to_the_stream_what_its_sublayers_say_about_a_normed_copy() -> None:
    block, x_BTC = Block(CONFIG), random_x(2, 10, 12)
    block.attention.project.weight.zero_()
    block.attention.project.bias.zero_()
    normed_BTC = F.layer_norm(x_BTC, (12,))
    torch.testing.assert_close(block(x_BTC), x_BTC + block.feedforward(normed_BTC))
    block.feedforward.project.weight.zero_()
    block.feedforward.project.bias.zero_()
    assert torch.equal(block(x_BTC), x_BTC)


# The model.


def test_it_has_as_many_parameters_as_the_lectures() -> None:
    # gpt.py of ng-video-lecture prints 10.788929 M.
    with torch.device("meta"):
        model = Transformer(TransformerConfig(context=256, layers=6, heads=6, width=384, dropout=0.2), 65)
    assert model.expected_parameters() == 10_788_929
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_788_929


def test_the_weights_are_drawn_as_the_lecture_draws_them() -> None:
    torch.manual_seed(1)
    model = Transformer(TransformerConfig(context=64, layers=2, heads=4, width=128), 65)
    for name, parameter in model.named_parameters():
        if "norm" not in name and name.endswith("weight"):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith("bias"):
            assert parameter.abs().sum() == 0, name


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(1)
    model = Transformer(TransformerConfig(context=10, layers=2, heads=2, width=12, dropout=0.5), 17)
    ids_BT = torch.arange(10).unsqueeze(0)
    assert not torch.equal(model(ids_BT), model(ids_BT))
    model.eval()
    assert torch.equal(model(ids_BT), model(ids_BT))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, r"model.layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"model.dropout must be in \[0, 1\), got 1.0"),
        ({"heads": 5}, r"model.width must be a multiple of model.heads = 5, got 12"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, int], message: str) -> None:
    settings: Callable[..., TransformerConfig] = TransformerConfig
    with pytest.raises(ConfigError, match=message):
        settings(**{"context": 10, "layers": 2, "heads": 3, "width": 12, **change})


# The table of steps in the module's docstring. `pytest -m slow tests/lm/models/test_attention.py`: 2 to 7 minutes.

SMALL = TransformerConfig(context=8, layers=3, heads=4, width=32)


def without_norms(block: Block) -> Block:
    block.attention_norm = block.feedforward_norm = nn.Identity()  # type: ignore[assignment]
    return block


STEPS: dict[str, tuple[Callable[[], list[nn.Module]], float]] = {
    "no past": (list, 2.496),
    "one head": (lambda: [Head(TransformerConfig(context=8, layers=1, heads=1, width=32))], 2.405),
    "many heads": (lambda: [MultiHead(SMALL)], 2.265),
    "feed-forward": (lambda: [MultiHead(SMALL), FeedForward(SMALL)], 2.208),
    "three times over": (lambda: [part(SMALL) for part in 3 * (MultiHead, FeedForward)], 2.292),
    "residual sums": (lambda: [without_norms(Block(SMALL)) for _ in range(3)], 2.073),
    "LayerNorm": (lambda: [*(Block(SMALL) for _ in range(3)), nn.LayerNorm(32)], 2.064),
}


class Step(nn.Module):
    """Embeddings, the parts of one step of the lecture, and a head."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.token_embedding, self.position_embedding = nn.Embedding(65, 32), nn.Embedding(8, 32)
        self.parts = nn.Sequential(*parts)
        self.head = nn.Linear(32, 65)

    def forward(self, ids_BT: Tensor) -> Tensor:
        logits_BTV: Tensor = self.head(self.parts(self.token_embedding(ids_BT) + self.position_embedding.weight))
        return logits_BTV

    def loss(self, rows_BT: Tensor) -> Tensor:
        return cross_entropy(self(rows_BT[:, :-1]), rows_BT[:, 1:])


@pytest.fixture(scope="module")
def shakespeare_N() -> Tensor:
    """Tiny shakespeare as ids: its 65 characters in order."""
    folder = os.environ.get("BPETOK_DATA")
    path = Path(folder or "", "tinyshakespeare.txt")
    if folder is None or not path.is_file():
        pytest.skip("BPETOK_DATA is not set to a folder with tinyshakespeare.txt")
    text = path.read_text(encoding="utf-8")
    id_of = {letter: id_ for id_, letter in enumerate(sorted(set(text)))}
    return torch.tensor([id_of[letter] for letter in text])


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_each_step_of_the_lecture_reaches_its_loss(shakespeare_N: Tensor, step: str) -> None:
    parts, on_paper = STEPS[step]
    end_of_train = int(0.9 * len(shakespeare_N))
    rows_NT = shakespeare_N[:end_of_train].unfold(0, 9, 1)
    torch.manual_seed(1337)
    model = Step(parts())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5000):
        loss = model.loss(rows_NT[torch.randint(len(rows_NT), (32,), generator=generator)])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    with torch.no_grad():
        reached = model.loss(shakespeare_N[end_of_train:].unfold(0, 9, 8)).item()
    # Another processor rounds otherwise, and 5,000 steps carry that on: the tolerance is the least step's size.
    assert reached == pytest.approx(on_paper, abs=0.009)
