"""The LSTM that GPT-1 was compared with (Hochreiter & Schmidhuber 1997; Radford et al. 2018, section 5).

    x = E[tokens];  h, state = LSTM(x, state);  logits = (W·h) · headᵀ        head = E when tied

B batch, T time, U units, D d_model, V vocabulary.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from foretell.models.cache import Cache, LSTMState
from foretell.models.config import LSTMConfig
from foretell.models.layers import make_embedding
from foretell.models.network import LanguageModel


class LSTM(LanguageModel):
    """A recurrent language model that answers to what the decoders answer to. Its memory is a state, not a cache of keys."""

    config: LSTMConfig

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = make_embedding(config.vocab_size, config.d_model)
        between = config.dropout if config.n_layer > 1 else 0.0
        self.lstm = nn.LSTM(config.d_model, config.d_hidden, config.n_layer, batch_first=True, dropout=between)
        self.out = nn.Linear(config.d_hidden, config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.token_embedding.weight

    def new_cache(self, batch: int, capacity: int) -> LSTMState:
        """The state before the first token; it does not grow with what is read."""
        return LSTMState.allocate(self.config, batch, self.head.weight.dtype, self.head.weight.device)

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None, keep_BS: Tensor | None = None) -> Tensor:
        """Token ids (B, T) → hidden states (B, T, D). With a cache its state is read and replaced.

        keep_BS: False for padding; on the left it is read as nothing (the state stays zero), on the right it does no harm.
        """
        state = cache if isinstance(cache, LSTMState) else self.new_cache(tokens_BT.shape[0], 0)
        x_BTD = F.dropout(self.token_embedding(tokens_BT), self.config.dropout, self.training)
        if keep_BS is None:
            h_BTU, (state.hidden_LBU, state.cell_LBU) = self.lstm(x_BTD, (state.hidden_LBU, state.cell_LBU))
        else:
            h_BTU = self._read_kept(x_BTD, state, keep_BS[:, -tokens_BT.shape[1] :])
        h_BTU = F.dropout(h_BTU, self.config.dropout, self.training)
        out: Tensor = self.out(h_BTU)
        return out

    def _read_kept(self, x_BTD: Tensor, state: LSTMState, keep_BT: Tensor) -> Tensor:
        """Row by row time: kept tokens are moved to the left, read, and moved back, so that padding never touches the state."""
        order_BT = (~keep_BT).int().argsort(dim=1, stable=True)
        lengths_B = keep_BT.sum(1).clamp(min=1).cpu()
        packed_x = x_BTD.gather(1, order_BT[..., None].expand_as(x_BTD))
        packed = nn.utils.rnn.pack_padded_sequence(packed_x, lengths_B, batch_first=True, enforce_sorted=False)
        packed_h, after = self.lstm(packed, (state.hidden_LBU, state.cell_LBU))
        read_B1 = keep_BT.any(1)[:, None]  # packing needs a token of every row; one that has none keeps its state
        state.hidden_LBU, state.cell_LBU = after[0].where(read_B1, state.hidden_LBU), after[1].where(read_B1, state.cell_LBU)
        h_BTU, _ = nn.utils.rnn.pad_packed_sequence(packed_h, batch_first=True, total_length=x_BTD.shape[1])
        return h_BTU.gather(1, order_BT.argsort(dim=1)[..., None].expand_as(h_BTU))
