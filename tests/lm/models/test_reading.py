"""Attention within documents, by a mask and by blocks; and in bfloat16 on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.loss import Objective
from lm.models.gpt2 import GPT2, GPT2Config
from lm.models.reading import PAST, Documents

DOCUMENTS_BT = torch.tensor([[0] * 50 + [1] * 150 + [2] * 56, list(range(256))])


def random_heads(*, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(2, 2, 256, 32, generator=generator) for _ in range(3)]
    return [tensor.to(device, dtype) for tensor in heads]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_blocks_read_what_the_mask_lets_read() -> None:
    q_BHTD, k_BHTD, v_BHTD = random_heads()
    with torch.no_grad():
        blocks, mask = (Documents(DOCUMENTS_BT, flex=flex).attend(0, q_BHTD, k_BHTD, v_BHTD) for flex in (True, False))
        alone = Documents(DOCUMENTS_BT, flex=True).attend(0, q_BHTD, k_BHTD, v_BHTD)[1]
    torch.testing.assert_close(blocks, mask, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, v_BHTD[1], rtol=0, atol=1e-5)  # each a document of its own: it reads itself


def test_with_dropout_the_mask_is_used_as_blocks_cannot_drop() -> None:
    q_BHTD, k_BHTD, v_BHTD = random_heads()
    reading = Documents(DOCUMENTS_BT, flex=True)
    torch.manual_seed(0)
    dropped = reading.attend(0, q_BHTD, k_BHTD, v_BHTD, dropout=0.5)
    torch.manual_seed(0)
    expected = Documents(DOCUMENTS_BT, flex=False).attend(0, q_BHTD, k_BHTD, v_BHTD, dropout=0.5)
    assert torch.equal(dropped, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_cuda_compiled_blocks_give_the_masks_loss_and_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = GPT2(GPT2Config(context=256, layers=2, heads=2, width=64), 100).cuda()
    ids_BT = torch.randint(100, (2, 257), device="cuda")
    documents_BT = DOCUMENTS_BT.cuda()
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    found = []
    for objective in (Objective(model), torch.compile(Objective(model))):
        model.zero_grad()
        with torch.autocast("cuda", dtype, enabled=dtype == torch.bfloat16):
            loss = objective(ids_BT[:, :-1], ids_BT[:, 1:], documents_BT) / 512
        loss.backward()
        found.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("reading", [PAST, Documents(DOCUMENTS_BT)], ids=["past", "documents"])
def test_on_the_cpu_attention_in_bfloat16_is_computed_in_float32(reading: object) -> None:
    q_BHTD, k_BHTD, v_BHTD = random_heads(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = reading.attend(0, q_BHTD, k_BHTD, v_BHTD)  # type: ignore[attr-defined]
    how = {"is_causal": True} if reading is PAST else {"attn_mask": _mask()}
    exact = F.scaled_dot_product_attention(q_BHTD.float(), k_BHTD.float(), v_BHTD.float(), **how)
    assert found.dtype == torch.bfloat16 and torch.equal(found, exact.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_keeps_its_precision(dtype: torch.dtype) -> None:
    q_BHTD, k_BHTD, v_BHTD = random_heads(dtype=dtype)
    found = PAST.attend(0, q_BHTD, k_BHTD, v_BHTD)
    assert found.dtype == dtype
    assert torch.equal(found, F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True))


def _mask() -> Tensor:
    same = DOCUMENTS_BT[:, :, None] == DOCUMENTS_BT[:, None, :]
    return same.tril()[:, None]
