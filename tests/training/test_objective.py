"""What is minimised: pieces equal the whole for every kind of network, and BERT's loss is the one of the paper."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foretell.data.batches import Batch
from foretell.interop.huggingface import save_model
from foretell.models.bert import BERT
from foretell.models.build import build, initialise
from foretell.models.cache import LSTMState
from foretell.models.lstm import LSTM
from foretell.models.network import Network
from foretell.models.settings import ModelSettings, resolve
from foretell.training.config import OptimizerSettings, ScheduleSettings
from foretell.training.objective import Totals, masked_results, objective
from foretell.training.optimizers import make_optimizers
from foretell.training.parameters import FlatParameters
from foretell.training.state import Progress, TrainState
from foretell.training.step import train_step

SIZES: dict[str, dict[str, Any]] = {
    "gpt1": {"n_layer": 2, "d_model": 32, "n_head": 2},
    "lstm": {"n_layer": 2, "d_model": 16, "d_hidden": 24},
    "bert": {"n_layer": 2, "d_model": 32, "n_head": 2},
}
OPTIMIZER, CONSTANT = OptimizerSettings(learning_rate=3e-3), ScheduleSettings(warmup_steps=0, decay="constant")


def network_of(preset: str, **settings: Any) -> Any:
    values = {"preset": preset, "context_length": 16, **SIZES[preset], **settings}
    network = build(resolve(ModelSettings.model_validate(values), 60)[0])
    initialise(network, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return network


def plain_batch(seed: int = 1, time: int = 16) -> Batch:
    stream = torch.randint(0, 60, (8, time + 1), generator=torch.Generator().manual_seed(seed))
    return Batch(stream[:, :-1].contiguous(), stream[:, 1:].contiguous(), torch.ones(8, time))


def masked_batch(paired: bool = True) -> Batch:
    """Rows with unequally many hidden tokens, one row with none, and padding."""
    generator = torch.Generator().manual_seed(3)
    tokens, targets = (torch.randint(0, 60, (8, 16), generator=generator) for _ in range(2))
    keep = torch.arange(16) < torch.tensor([16, 16, 9, 12, 16, 5, 16, 16])[:, None]
    weight = ((torch.rand(8, 16, generator=generator) < torch.arange(8)[:, None] / 10) & keep).float()
    segments = (torch.arange(16) > 7).long().expand(8, 16).contiguous()
    return Batch(tokens, targets, weight, segments, keep, torch.tensor([0, 1, 1, 0, 1, 0, 0, 1]) if paired else None)


def pieces_of(batch: Batch, sizes: list[int]) -> list[Batch]:
    fields = {name: torch.split(value, sizes) for name, value in vars(batch).items() if value is not None}
    return [Batch(**{name: parts[number] for name, parts in fields.items()}) for number in range(len(sizes))]


def learned(network: Network, pieces: list[Batch]) -> tuple[float, list[Tensor]]:
    """The loss of a batch given in pieces, and the gradients of all weights."""
    network.zero_grad()
    losses = [objective(network, piece, Totals.of(pieces), network) for piece in pieces]
    sum(losses, torch.zeros(())).backward()  # type: ignore[no-untyped-call]
    return float(sum(losses, torch.zeros(())).detach()), [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("preset", SIZES)
def test_accumulated_equals_big_batch(preset: str) -> None:
    """In unequal pieces, with unequal weights, one piece without a hidden token: a mean of means would be wrong."""
    network = network_of(preset)
    batch = masked_batch() if preset == "bert" else plain_batch()
    batch.weight_BT[2:5, 4:] = 0.0
    loss, gradients = learned(network, [batch])
    assert len(gradients) == len(list(network.parameters()))
    for sizes in ([1, 4, 3], [5, 3], [1] * 8):
        accumulated, theirs = learned(network, pieces_of(batch, sizes))
        assert accumulated == pytest.approx(loss, rel=1e-5)
        for left, right in zip(theirs, gradients, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=2e-6)


def test_berts_loss_is_the_mean_over_hidden_tokens_plus_the_mean_over_pairs() -> None:
    network, batch = network_of("bert"), masked_batch()
    hidden_BTD = network(batch.tokens_BT, batch.segments_BT, batch.keep_BT)
    chosen = batch.weight_BT > 0
    masked = F.cross_entropy(network.masked_logits(hidden_BTD)[chosen], batch.targets_BT[chosen])
    pairs = F.cross_entropy(network.next_sentence_logits(hidden_BTD), batch.next_B)  # type: ignore[arg-type]
    found, gradients = learned(network, [batch])
    assert found == pytest.approx(float((masked + pairs).detach()), rel=1e-5)
    expected = torch.autograd.grad(masked + pairs, list(network.parameters()))
    for left, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=2e-6)
    alone, _ = learned(network, [masked_batch(paired=False)])
    assert alone == pytest.approx(float(masked.detach()), rel=1e-5)


def test_berts_loss_equals_that_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network, batch = network_of("bert"), masked_batch()
    save_model(tmp_path, network, None)
    theirs = transformers.BertForPreTraining.from_pretrained(tmp_path, attn_implementation="eager").eval()
    labels = batch.targets_BT.masked_fill(batch.weight_BT == 0, -100)
    given = {"token_type_ids": batch.segments_BT, "attention_mask": batch.keep_BT.long()}  # type: ignore[union-attr]
    result = theirs(input_ids=batch.tokens_BT, **given, labels=labels, next_sentence_label=batch.next_B)
    assert learned(network, [batch])[0] == pytest.approx(float(result.loss.detach()), rel=1e-5)


@torch.no_grad()
def test_nothing_hidden_is_no_division_by_zero() -> None:
    batch = masked_batch(paired=False)
    batch.weight_BT.zero_()
    assert float(objective(network := network_of("bert"), batch, Totals.of([batch]), network)) == 0.0


def test_totals_count_weights_and_labels() -> None:
    batch = masked_batch()
    assert Totals.of(pieces_of(batch, [3, 5])) == (float(batch.weight_BT.sum()), 8, batch.tokens_BT.numel())
    assert Totals.of([plain_batch(), plain_batch()]) == (256.0, 0, 256)


def test_masked_results_are_sums_of_each_sequence() -> None:
    network, batch = network_of("bert").eval(), masked_batch()
    results_B4 = masked_results(network, batch)
    with torch.no_grad():
        hidden_BTD = network(batch.tokens_BT, batch.segments_BT, batch.keep_BT)
        logits_BTV, told = network.masked_logits(hidden_BTD), network.next_sentence_logits(hidden_BTD).argmax(1)
    nats = F.cross_entropy(logits_BTV.transpose(1, 2), batch.targets_BT, reduction="none") * batch.weight_BT
    found = (logits_BTV.argmax(2) == batch.targets_BT) * batch.weight_BT
    columns = (batch.weight_BT.sum(1), nats.sum(1), found.sum(1), (told == batch.next_B).float())
    assert results_B4.dtype == torch.float64 and results_B4[0, :3].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(results_B4, torch.stack(columns, dim=1).double(), rtol=1e-5, atol=1e-5)
    assert not masked_results(network, masked_batch(paired=False))[:, 3].any()


def halves() -> tuple[Batch, Batch, Batch]:
    whole = plain_batch(time=32)
    fields = (whole.tokens_BT, whole.targets_BT, whole.weight_BT)
    first, second = (Batch(*(field[:, part] for field in fields)) for part in (slice(16), slice(16, 32)))
    return whole, first, second


def test_a_carried_state_makes_two_windows_one() -> None:
    """Truncated backpropagation through time: forwards nothing is lost, backwards nothing reaches the window before."""
    network: LSTM = network_of("lstm")
    whole, first, second = halves()
    totals, memory = Totals.of([whole]), network.new_cache(8, 0)
    apart = objective(network, first, totals, network, memory)
    carried = memory.rows(0, 8)
    began = carried.hidden_LBU, carried.cell_LBU
    later = objective(network, second, totals, network, carried)
    together = objective(network, whole, totals, network)
    assert float((apart + later).detach()) == pytest.approx(float(together.detach()), rel=1e-6)
    apart.backward()  # type: ignore[no-untyped-call]
    network.zero_grad()
    later.backward()  # type: ignore[no-untyped-call] # the first window's graph is gone: it would raise if it reached back
    found = [parameter.grad for parameter in network.parameters()]
    again = objective(network, second, totals, network, LSTMState(*began))
    for left, right in zip(found, torch.autograd.grad(again, list(network.parameters())), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    forgotten = objective(network, second, totals, network)
    assert abs(float(forgotten.detach() - later.detach())) > 1e-4


def state_of(network: LSTM) -> TrainState:
    parameters = FlatParameters(network, torch.float32)
    return TrainState(
        network, parameters, make_optimizers(parameters, OPTIMIZER, network.config), Progress(steps=9), network.new_cache(8, 0)
    )


@pytest.mark.parametrize("sizes", [[3, 5], [1, 6, 1]])
def test_accumulation_carries_each_rows_own_state(sizes: list[int]) -> None:
    whole, pieces = state_of(network_of("lstm")), state_of(network_of("lstm"))
    for batch in halves()[1:]:
        expected = train_step(whole, [batch], OPTIMIZER, CONSTANT)
        report = train_step(pieces, pieces_of(batch, sizes), OPTIMIZER, CONSTANT)
        assert report.loss == pytest.approx(expected.loss, rel=1e-5)
        assert report.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
        assert whole.memory and pieces.memory and not whole.memory.hidden_LBU.requires_grad
        torch.testing.assert_close(pieces.memory.hidden_LBU, whole.memory.hidden_LBU, rtol=0, atol=1e-4)
        torch.testing.assert_close(pieces.memory.cell_LBU, whole.memory.cell_LBU, rtol=0, atol=1e-4)
    for left, right in zip(whole.parameters.named_masters().values(), pieces.parameters.named_masters().values(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=2e-5)


def test_faithful_dropout_reaches_the_loss_through_input_and_head() -> None:
    """The fused loss projects with the matrix that this step dropped out: value and gradient equal plain torch's."""
    network, batch = network_of("gpt1", faithful=True, dropout=0.4).train(), plain_batch()
    torch.manual_seed(5)
    loss, gradients = learned(network, [batch])
    torch.manual_seed(5)
    dropped_VD = F.dropout(network.token_embedding.weight, 0.4)  # the first draw of a step
    torch.manual_seed(5)
    expected = F.cross_entropy((network(batch.tokens_BT) @ dropped_VD.T).flatten(0, 1), batch.targets_BT.flatten())
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for left, right in zip(gradients, torch.autograd.grad(expected, list(network.parameters())), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", SIZES)
def test_one_batch_can_be_learned_by_heart(preset: str, dtype: torch.dtype) -> None:
    network, batch = network_of(preset), masked_batch() if preset == "bert" else plain_batch()
    parameters = FlatParameters(network, dtype)
    memory = network.new_cache(8, 0) if isinstance(network, LSTM) else None
    state = TrainState(network, parameters, make_optimizers(parameters, OPTIMIZER, network.config), Progress(steps=99), memory)
    settings = OPTIMIZER.replace(learning_rate=1e-2)
    losses = [train_step(state, pieces_of(batch, [3, 5]), settings, CONSTANT).loss for _ in range(40)]
    assert losses[-1] < losses[0] * 0.75
    assert isinstance(network, BERT) == (preset == "bert")
