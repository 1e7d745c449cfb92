"""What a model expects at each position of a text: the chance of the id that comes, and the likeliest ids."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lm.batches import IGNORE
from lm.evaluate import logits_for
from lm.models.contract import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model expected where `target` came.

    Args:
        target: the id that came.
        chance: the probability that the model gave it.
        top: the likeliest ids and their probabilities, the likeliest first.
    """

    target: int
    chance: float
    top: tuple[tuple[int, float], ...]


@torch.inference_mode()
def predictions(model: LanguageModel, inputs_BT: Tensor, targets_BT: Tensor, *, top: int = 5) -> list[Prediction]:
    """One prediction for each target that is not `IGNORE`, row by row, as an evaluation makes them.

    The model is in eval mode meanwhile, and back in its own mode after.

    Args:
        model: on the device where it is to run.
        inputs_BT: as a split's batches give them (`lm.batches.in_order`).
        targets_BT: likewise; of one column, where the inputs are windows.
        top: how many of the likeliest ids to keep; all of them, where the vocabulary has no more.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        logits_BTV = logits_for(model, inputs_BT.to(device), targets_BT).double()
        chances_BTV = logits_BTV.softmax(dim=2).cpu()
    finally:
        model.train(was_training)
    chances_NV, targets_N = chances_BTV[targets_BT != IGNORE], targets_BT[targets_BT != IGNORE]
    top_chances_NK, top_ids_NK = chances_NV.topk(min(top, model.vocab_size), dim=1)
    true_N = chances_NV.gather(1, targets_N[:, None]).squeeze(1)
    rows = zip(targets_N.tolist(), true_N.tolist(), top_ids_NK.tolist(), top_chances_NK.tolist(), strict=True)
    return [
        Prediction(target=target, chance=chance, top=tuple(zip(top_ids, top_chances, strict=True)))
        for target, chance, top_ids, top_chances in rows
    ]


def visible(text: str) -> str:
    r"""The text with blanks and line ends that can be seen; an empty one as ∅.

    >>> visible(" a\n"), visible("\0"), visible("")
    ('␣a↵', '�', '∅')
    """
    shown = text.replace(" ", "␣").replace("\n", "↵") or "∅"
    return "".join(char if char.isprintable() else "�" for char in shown)


def heat_map(predicted: Sequence[Prediction], name_of: Callable[[int], str]) -> str:
    """The predictions as HTML: for each position the true token, and under it the likeliest, the deeper the likelier.

    Args:
        predicted: the positions, in the order of the text.
        name_of: the text of an id; blanks and line ends are made visible here.
    """
    return f'<div class="heat">{"".join(_position(one, name_of) for one in predicted)}</div>'


STYLE = """
.heat { display: flex; flex-wrap: wrap; gap: .55rem .3rem; font: .8rem/1.35 ui-monospace, monospace }
.heat > div { min-width: 2.1rem; max-width: 7rem; text-align: center }
.heat span { display: block; padding: 0 .25rem; overflow: hidden; text-overflow: ellipsis; white-space: pre;
             background: color-mix(in srgb, var(--heat) calc(var(--p) * 1%), transparent) }
.heat > div > span:first-child { font-weight: 700; font-size: .95rem; border-bottom: 2px solid var(--ink);
                                 margin-bottom: 1px }
.heat .hit { outline: 1px solid var(--ink); outline-offset: -1px }
:root { --heat: #f08c2e } @media (prefers-color-scheme: dark) { :root { --heat: #c2600c } }
"""


def _position(one: Prediction, name_of: Callable[[int], str]) -> str:
    cells = [_cell(visible(name_of(one.target)), one.chance)]
    for id_, chance in one.top:
        cells.append(_cell(visible(name_of(id_)), chance, hit=id_ == one.target))
    return f"<div>{''.join(cells)}</div>"


def _cell(text: str, chance: float, hit: bool = False) -> str:
    # nan where the weights are; CSS has no word for it, so it has no colour.
    percent = f"{100 * chance:.0f}" if chance == chance else "0"
    title = html.escape(f"{text} {100 * chance:.1f} %", quote=True)
    mark = ' class="hit"' if hit else ""
    return f'<span{mark} style="--p:{percent}" title="{title}">{html.escape(text)}</span>'
