"""What flows through a model: the size of the residual stream after each block, on one small batch that stays the same."""

import torch
from torch import Tensor, nn

from foretell.data.batches import Batch
from foretell.models.bert import BERT
from foretell.models.network import Network
from foretell.training.state import StepReport, TrainState


class WatchActivations:
    """An observer behind Evaluate: on steps with a held-out loss, the statistics of one batch. On every rank of a sharded run."""

    def __init__(self, batch: Batch) -> None:
        """batch: two rows say enough."""
        self._batch = batch

    def __call__(self, state: TrainState, report: StepReport) -> None:
        if report.held_out_loss is not None:
            report.activations = activation_statistics(state.model, self._batch)


@torch.no_grad()
def activation_statistics(model: Network, batch: Batch) -> dict[str, float]:
    """blocks.N.rms and blocks.N.largest (absolute value) of the residual stream (B, T, D) after each block, padding left out.

    One forward pass without dropout; gradients, mode and random state stay as they were. Empty for a model without blocks.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        return {}
    batch, was_training, seen = batch.to(model.token_embedding.weight.device), model.training, list[Tensor]()

    def look(_: nn.Module, __: object, x_BTD: Tensor) -> None:
        x_ND = (x_BTD.flatten(0, 1) if batch.keep_BT is None else x_BTD[batch.keep_BT]).float()
        seen.append(torch.stack([x_ND.square().mean().sqrt(), x_ND.abs().max()]))

    handles = [block.register_forward_hook(look) for block in blocks]
    model.eval()
    try:
        if isinstance(model, BERT):
            model(batch.tokens_BT, batch.segments_BT, batch.keep_BT)
        else:
            model(batch.tokens_BT, **({} if batch.documents_BT is None else {"documents_BT": batch.documents_BT}))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    values_L2 = torch.stack(seen).tolist()  # one copy from the device
    return {
        f"blocks.{layer}.{name}": pair[at] for layer, pair in enumerate(values_L2) for at, name in enumerate(("rms", "largest"))
    }
