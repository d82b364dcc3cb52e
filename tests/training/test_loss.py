"""The fused loss equals PyTorch's cross-entropy, value and gradients; accumulated equals big batch."""

import pytest
import torch
from torch.nn import functional as F

from foretell.training import loss as loss_module
from foretell.training.loss import cross_entropy_sum, nats_per_token


@pytest.mark.parametrize("chunk_values", [64 * 50, 2**21])
def test_value_and_gradients_equal_the_reference(monkeypatch: pytest.MonkeyPatch, chunk_values: int) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_VALUES", chunk_values)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(4, 50, 16, generator=generator, dtype=torch.float32, requires_grad=True)
    head = torch.randn(50, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 50, (4, 50), generator=generator)
    weight = torch.rand(4, 50, generator=generator).round()
    ours = cross_entropy_sum(hidden, head, targets, weight)
    ours_gradients = torch.autograd.grad(ours * 0.3, (hidden, head))
    logits = hidden @ head.t()
    reference = (F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none") * weight.flatten()).sum()
    reference_gradients = torch.autograd.grad(reference * 0.3, (hidden, head))
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    for left, right in zip(ours_gradients, reference_gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk_values", [64 * 50, 2**21])
def test_a_bias_has_its_value_and_its_gradient(monkeypatch: pytest.MonkeyPatch, chunk_values: int) -> None:
    """BERT's masked head: logits are hidden · headᵀ + bias."""
    monkeypatch.setattr(loss_module, "CHUNK_VALUES", chunk_values)
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(4, 50, 16, generator=generator, requires_grad=True)
    head = torch.randn(50, 16, generator=generator, requires_grad=True)
    bias = torch.randn(50, generator=generator, requires_grad=True)
    targets = torch.randint(0, 50, (4, 50), generator=generator)
    weight = torch.rand(4, 50, generator=generator).round()
    ours = cross_entropy_sum(hidden, head, targets, weight, bias)
    logits = hidden @ head.t() + bias
    reference = (F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none") * weight.flatten()).sum()
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    assert abs(float(ours.detach() - cross_entropy_sum(hidden, head, targets, weight).detach())) > 1
    pairs = (torch.autograd.grad(loss * 0.3, (hidden, head, bias)) for loss in (ours, reference))
    for left, right in zip(*pairs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_values", [64 * 50, 2**21])
@pytest.mark.parametrize(("z_loss", "smoothing"), [(0.0, 0.0), (1e-2, 0.0), (0.0, 0.1), (1e-2, 0.1)])
def test_every_term_is_its_formula(monkeypatch: pytest.MonkeyPatch, chunk_values: int, z_loss: float, smoothing: float) -> None:
    """z-loss: Chowdhery et al. 2022; label smoothing: as torch's cross_entropy, which takes no weight for each row."""
    monkeypatch.setattr(loss_module, "CHUNK_VALUES", chunk_values)
    monkeypatch.setattr(loss_module, "CACHE_VALUES", 50 * 7)
    generator = torch.Generator().manual_seed(5)
    inputs = [torch.randn(size, generator=generator, requires_grad=True) for size in ((4, 50, 16), (50, 16), (50,))]
    hidden, head, bias = inputs
    targets, weight = torch.randint(0, 50, (4, 50), generator=generator), torch.rand(4, 50, generator=generator)
    ours = cross_entropy_sum(hidden, head, targets, weight, bias, z_loss=z_loss, label_smoothing=smoothing)
    logits = (hidden.double() @ head.double().t() + bias).flatten(0, 1)
    nats = F.cross_entropy(logits, targets.flatten(), reduction="none", label_smoothing=smoothing)
    reference = ((nats + z_loss * logits.logsumexp(1).square()) * weight.flatten()).sum()
    torch.testing.assert_close(ours.double(), reference, rtol=1e-6, atol=0)
    for left, right in zip(*(torch.autograd.grad(loss, inputs) for loss in (ours, reference)), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_the_heads_gradient_goes_into_the_sum_that_training_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32, on top of what is there; a loss that is scaled afterwards would be wrong and is refused."""
    monkeypatch.setattr(loss_module, "CACHE_ROWS", 30)
    generator = torch.Generator().manual_seed(6)
    hidden = torch.randn(1, 200, 16, generator=generator).bfloat16().requires_grad_()
    head = torch.nn.Parameter((torch.randn(70, 16, generator=generator) * 0.3).bfloat16())
    targets, weight = torch.randint(0, 70, (1, 200), generator=generator), torch.rand(1, 200, generator=generator)
    plain = torch.autograd.grad(cross_entropy_sum(hidden, head, targets, weight), (hidden, head))
    assert head.grad is None
    head.grad_dtype, head.grad = torch.float32, torch.ones(70, 16)
    total = head.grad
    cross_entropy_sum(hidden, head, targets, weight).backward()  # type: ignore[no-untyped-call]
    assert head.grad is total and hidden.grad is not None
    assert torch.equal(hidden.grad, plain[0]) and torch.equal((total - 1).bfloat16(), plain[1])
    with torch.no_grad():
        cross_entropy_sum(hidden, head, targets, weight)
        assert torch.equal(hidden.grad, plain[0])
    before = total.clone()
    with torch.no_grad():
        cross_entropy_sum(hidden, head, targets, weight)
    assert torch.equal(total, before)
    with pytest.raises(AssertionError, match="scale the weights"):
        (cross_entropy_sum(hidden, head, targets, weight) / 2).backward()  # type: ignore[no-untyped-call]


def test_no_tokens_cost_nothing() -> None:
    """A batch in which BERT has hidden nothing."""
    hidden, head, bias = torch.zeros(1, 0, 8, requires_grad=True), torch.ones(11, 8, requires_grad=True), torch.ones(11)
    loss = cross_entropy_sum(hidden, head, torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0), bias)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0.0 and head.grad is not None and not head.grad.any()


def test_nats_per_token_are_the_unreduced_loss() -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, head = torch.randn(2, 7, 8, generator=generator), torch.randn(11, 8, generator=generator)
    targets = torch.randint(0, 11, (2, 7), generator=generator)
    expected = F.cross_entropy((hidden @ head.t()).flatten(0, 1), targets.flatten(), reduction="none").view(2, 7)
    torch.testing.assert_close(nats_per_token(hidden, head, targets), expected)


def test_bf16_is_near_fp32() -> None:
    generator = torch.Generator().manual_seed(3)
    hidden, head = torch.randn(1, 64, 32, generator=generator), torch.randn(100, 32, generator=generator) * 0.1
    targets, weight = torch.randint(0, 100, (1, 64), generator=generator), torch.ones(1, 64)
    exact = cross_entropy_sum(hidden, head, targets, weight)
    rounded = cross_entropy_sum(hidden.bfloat16(), head.bfloat16(), targets, weight)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=2e-3, atol=0)
    bias = torch.randn(100, generator=generator)
    exact = cross_entropy_sum(hidden, head, targets, weight, bias)
    head_, bias_ = head.bfloat16().requires_grad_(), bias.bfloat16().requires_grad_()
    rounded = cross_entropy_sum(hidden.bfloat16(), head_, targets, weight, bias_)
    torch.testing.assert_close(rounded, exact, rtol=5e-3, atol=0)
    assert [grad.dtype for grad in torch.autograd.grad(rounded, (head_, bias_))] == [torch.bfloat16] * 2


def test_on_another_device_the_added_gradient_is_trusted_to_be_unscaled() -> None:
    """As on a GPU, whose numbers are not read: the bf16 head of FlatParameters, whose gradient the loss adds itself."""
    head_VD = torch.nn.Parameter(torch.zeros(50, 8, dtype=torch.bfloat16, device="meta"))
    head_VD.grad_dtype = torch.float32
    head_VD.grad = torch.zeros(50, 8, device="meta")
    hidden_BTD = torch.zeros(2, 3, 8, dtype=torch.bfloat16, device="meta", requires_grad=True)
    targets_BT = torch.zeros(2, 3, dtype=torch.long, device="meta")
    cross_entropy_sum(hidden_BTD, head_VD, targets_BT, torch.ones(2, 3, device="meta")).backward()  # type: ignore[no-untyped-call]
    assert hidden_BTD.grad is not None and hidden_BTD.grad.shape == hidden_BTD.shape
