import math

import pytest
import torch

from lm.errors import ConfigError
from lm.loss import cross_entropy
from lm.models.gpt2 import GPT2, INIT_STD, SIZES, GPT2Config

SMALL = GPT2Config(context=16, layers=3, heads=2, width=64)


def count(config: GPT2Config) -> int:
    with torch.device("meta"):
        model = GPT2(config, 50_257)
    assert model.expected_parameters() == sum(parameter.numel() for parameter in model.parameters())
    return model.expected_parameters()


@pytest.mark.parametrize(
    ("size", "parameters"),
    # Published: 124,439,808 (karpathy/llm.c, transformers); the others by the same formula, named by their millions.
    [("gpt2-124m", 124_439_808), ("gpt2-355m", 354_823_168), ("gpt2-774m", 774_030_080), ("gpt2-1558m", 1_557_611_200)],
)
def test_the_published_sizes_have_the_published_numbers_of_parameters(size: str, parameters: int) -> None:
    config = SIZES[size]
    unpadded = GPT2Config(
        context=config.context, layers=config.layers, heads=config.heads, width=config.width, vocab_multiple=1
    )
    assert count(unpadded) == parameters
    assert count(config) == parameters + (50_304 - 50_257) * config.width
    assert size == f"gpt2-{parameters // 10**6 + (parameters % 10**6 >= 5 * 10**5)}m"


def test_padding_of_the_vocabulary_gets_no_gradient_and_changes_no_loss() -> None:
    torch.manual_seed(0)
    padded = GPT2(SMALL, 70)
    plain = GPT2(GPT2Config(context=16, layers=3, heads=2, width=64, vocab_multiple=1), 70)
    weights = padded.state_dict()
    assert weights["token_embedding.weight"].shape == (128, 64)
    plain.load_state_dict({**weights, "token_embedding.weight": weights["token_embedding.weight"][:70]})
    ids_BT = torch.randint(70, (2, 17))
    losses = [cross_entropy(model(ids_BT[:, :-1]), ids_BT[:, 1:]) for model in (padded, plain)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    losses[0].backward()
    gradient = padded.token_embedding.weight.grad
    assert gradient is not None
    assert gradient[70:].abs().max() == 0 and padded.token_embedding.weight[70:].abs().max() == 0


def test_weights_are_drawn_as_the_paper_says() -> None:
    torch.manual_seed(0)
    model = GPT2(SMALL, 1000)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all(), name
        elif name.endswith(".bias"):
            assert (parameter == 0).all(), name
        else:
            real = parameter[:1000] if name == "token_embedding.weight" else parameter
            expected = INIT_STD / math.sqrt(2 * 3) if ".project." in name else INIT_STD
            # The standard deviation of n normals is known to 1 / sqrt(2n); four of those.
            assert real.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * real.numel())), name


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = GPT2(GPT2Config(context=8, layers=1, heads=1, width=16, dropout=0.5), 10)
    ids_BT = torch.zeros(1, 8, dtype=torch.int64)
    assert not torch.equal(model(ids_BT), model(ids_BT))
    model.eval()
    assert torch.equal(model(ids_BT), model(ids_BT))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 3}, r"model.width must be a multiple of model.heads = 3, got 64"),
        ({"layers": 0}, r"model.layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"model.dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": math.nan}, r"model.dropout must be in \[0, 1\), got nan"),
    ],
)
def test_impossible_sizes_are_refused(wrong: dict[str, float], message: str) -> None:
    settings = {"context": 16, "layers": 3, "heads": 2, "width": 64, **wrong}
    with pytest.raises(ConfigError, match=message):
        GPT2Config(**settings)
