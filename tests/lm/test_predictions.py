import re

import pytest
import torch
from torch import Tensor, nn

from lm.batches import IGNORE
from lm.loss import token_losses
from lm.models.contract import FirstLoss, LanguageModel
from lm.models.gpt2 import GPT2, GPT2Config
from lm.predictions import Prediction, heat_map, predictions


class Fixed(LanguageModel):
    """A model of three ids that expects 0, 1, 2 at .5, .3, .2 wherever it is asked."""

    def __init__(self, chances: tuple[float, ...] = (0.5, 0.3, 0.2)) -> None:
        super().__init__()
        self.context, self.window, self.vocab_size = 8, 1, len(chances)
        self.logits = nn.Parameter(torch.tensor(chances).log())

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.logits.expand(*ids_BT.shape, -1)

    def expected_parameters(self) -> int:
        return 3

    def expected_first_loss(self) -> FirstLoss:
        raise NotImplementedError


def test_each_target_has_its_chance_and_the_likeliest_ids() -> None:
    first, second = predictions(Fixed(), torch.tensor([[0, 1]]), torch.tensor([[1, 2]]), top=2)
    assert (first.target, second.target) == (1, 2)
    assert (first.chance, second.chance) == pytest.approx((0.3, 0.2))
    assert [token_id for token_id, _ in first.top] == [0, 1]
    assert [chance for _, chance in first.top] == pytest.approx([0.5, 0.3])


def test_there_are_no_more_likeliest_ids_than_ids() -> None:
    (one,) = predictions(Fixed(), torch.tensor([[0]]), torch.tensor([[1]]), top=5)
    assert len(one.top) == 3


def test_places_without_a_target_have_no_prediction() -> None:
    inputs_BT, targets_BT = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[1, IGNORE], [IGNORE, 2]])
    assert [one.target for one in predictions(Fixed(), inputs_BT, targets_BT)] == [1, 2]


@pytest.mark.parametrize("columns", [1, 6])
def test_the_chances_are_those_that_the_loss_is_made_of(columns: int) -> None:
    torch.manual_seed(1)
    model = GPT2(GPT2Config(context=6, layers=1, heads=2, width=8, dropout=0.5), vocab_size=20).train()
    ids_BT = torch.randint(20, (3, 7))
    inputs_BT, targets_BT = ids_BT[:, :-1], ids_BT[:, -columns:]
    chances = [one.chance for one in predictions(model, inputs_BT, targets_BT)]
    assert model.training
    losses_BT = token_losses(model.eval()(inputs_BT)[:, -columns:], targets_BT)
    torch.testing.assert_close(torch.tensor(chances), torch.exp(-losses_BT).flatten())


def test_the_heat_map_shows_what_came_over_what_was_expected() -> None:
    one = Prediction(target=7, chance=0.25, top=((3, 0.5), (7, 0.25)))
    text = heat_map([one], lambda token_id: {3: " the", 7: "\n"}[token_id])
    cells = re.findall(r'<span(.*?) style="--p:(\d+)" title="(.*?)">(.*?)</span>', text)
    assert cells == [
        ("", "25", "↵ 25.0 %", "↵"),
        ("", "50", "␣the 50.0 %", "␣the"),
        (' class="hit"', "25", "↵ 25.0 %", "↵"),
    ]


def test_the_heat_map_is_escaped_and_stands_nan() -> None:
    one = Prediction(target=0, chance=float("nan"), top=((0, float("nan")),))
    text = heat_map([one], lambda token_id: '"><script>')
    assert "<script" not in text
    assert '--p:0" title="&quot;&gt;&lt;script&gt; nan %"' in text
