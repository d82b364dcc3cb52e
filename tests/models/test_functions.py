"""Gradients written by hand equal those of the plain formulas, in fp64; and what training sums in fp32 arrives there."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foretell.models import attention, functions
from foretell.models.attention import attend, causal_mask
from foretell.models.functions import gradient_sum, look_up, root_norm, rotate

GENERATOR = torch.Generator()


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR.manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def value_and_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = function(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, random(*out.shape).to(out.dtype) + 0.5)]


def check(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Tensor], *inputs: Tensor) -> None:
    ours = value_and_gradients(function, list(inputs))
    monkeypatch.setattr(functions, "by_hand", lambda: False)
    for left, right in zip(ours, value_and_gradients(function, list(inputs)), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_root_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, lambda x, gain: root_norm(x, gain, 1e-3), random(2, 3, 5, 8), random(8))


def test_root_norm_is_computed_in_fp32() -> None:
    x, gain = random(64, 128, dtype=torch.bfloat16), random(128, dtype=torch.bfloat16)
    wide = F.rms_norm(x.float(), (128,), gain.float(), 1e-6)
    assert torch.equal(root_norm(x.requires_grad_(), gain, 1e-6).detach(), wide.bfloat16())


@pytest.mark.parametrize("shape", [(6, 8), (2, 6, 8)])
def test_rotation(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    angle = random(*shape[:-1], 4)
    angles = torch.cat((angle, angle), dim=-1)
    rotation = torch.stack((angles.cos(), angles.sin()))
    check(monkeypatch, lambda x: rotate(x, rotation), random(2, 6, 3, 8))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_by_blocks(monkeypatch: pytest.MonkeyPatch, causal: bool, masked: bool, kv_heads: int) -> None:
    """Blocks of 4 queries of 10: the last one is shorter."""
    monkeypatch.setattr(attention, "BLOCK", 4)
    mask = causal_mask(10, 0, torch.float64, torch.device("cpu"), ahead=not causal).expand(2, 1, 10, 10).clone()
    mask[1, :, 5:, :3] = float("-inf")

    def blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = attention._Blocks.apply(q, k, v, mask if masked else None, causal, 0.3)  # type: ignore[no-untyped-call]
        return out

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = mask if masked else causal_mask(10, 0, torch.float64, torch.device("cpu"), ahead=not causal)
        return attention._attend_explicitly(q, k, v, seen, 0.3, 0.0)

    inputs = [random(2, heads, 10, 8) + 0.1 * place for place, heads in enumerate((4, kv_heads, kv_heads))]
    for left, right in zip(value_and_gradients(blocks, inputs), value_and_gradients(plain, inputs), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_training_in_bf16_attends_by_blocks() -> None:
    q = random(1, 2, 6, 8, dtype=torch.bfloat16).requires_grad_()
    out = attend(q, q, q, None, causal=True, scale=0.3)
    assert type(out.grad_fn).__name__ == "_BlocksBackward"
    with torch.no_grad():
        torch.testing.assert_close(attend(q, q, q, None, causal=True, scale=0.3), out, rtol=0, atol=0.02)


def test_rows_that_were_read_are_summed_in_fp32() -> None:
    tokens, table = torch.tensor([[1, 1, 3], [1, 0, 3]]), torch.nn.Parameter(random(5, 8, dtype=torch.bfloat16))
    assert gradient_sum(table) is None  # nobody keeps a sum: autograd does it
    table.grad_dtype, table.grad = torch.float32, torch.ones(5, 8)
    total = gradient_sum(table)
    assert total is table.grad
    rows, upstream = look_up(tokens, table), random(2, 3, 8, dtype=torch.bfloat16)
    assert torch.equal(rows, table[tokens])
    rows.backward(upstream)  # type: ignore[no-untyped-call]
    expected = torch.ones(5, 8).index_add_(0, tokens.flatten(), upstream.flatten(0, 1).float())
    assert table.grad is total
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-6)


def test_compilers_see_the_plain_formulas() -> None:
    with torch.no_grad():
        assert not functions.by_hand()
    assert functions.by_hand()
    graph = torch.export.export(torch.nn.RMSNorm(8), (random(3, 8, dtype=torch.float32),))
    assert "rms_norm" in str(graph.graph)
