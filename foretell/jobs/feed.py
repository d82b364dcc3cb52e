"""What a run learns from and is measured on: windows for decoders, streams for LSTMs, hidden tokens for BERT."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from foretell.base.errors import ModelError, SettingError
from foretell.data.batches import Batch, TrainBatches, held_out_windows
from foretell.data.config import DataSettings
from foretell.data.corruption import MaskedBatches, Masking, held_out_masked
from foretell.data.mixture import MixedBatches, MixedShards, source_seed
from foretell.data.prefetch import Batches
from foretell.data.shards import ShardReader, Split
from foretell.data.streams import StreamBatches
from foretell.evaluation.masked import MaskedScore, masked_protocol, score_masked
from foretell.evaluation.perplexity import Score, protocol, score_batches
from foretell.models.bert import BERT
from foretell.models.config import LSTMConfig, ModelConfig
from foretell.models.network import LanguageModel, Network
from foretell.tokenizers.tokenizer import Tokenizer


def training_batches(
    config: ModelConfig, data: DataSettings, shards: ShardReader, tokenizer: Tokenizer, *, seed: int, rows: int
) -> Batches:
    """rows: windows of a whole batch. Raises DataError when the text is too short, SettingError."""
    if isinstance(config, LSTMConfig):
        if isinstance(shards, MixedShards):
            cure = "put all text into one folder with `foretell shards append`, and name it: data.shards=DIR"
            raise SettingError("an LSTM reads one text in its order, and mixes none", where="data.sources", cure=cure)
        return StreamBatches(shards.train, seed, config.context_length, rows)
    hidden = None if config.causal else masking(data, tokenizer, paired(config))

    def windows(split: Split, seed: int) -> TrainBatches | MaskedBatches:
        if hidden is None:
            return TrainBatches(split, seed, config.context_length, data.document_mask)
        return MaskedBatches(split, seed, config.context_length, hidden)

    if not isinstance(shards, MixedShards):
        return windows(shards.train, seed)
    readers = enumerate(shards.sources.values())
    return MixedBatches(data.sources, [windows(reader.train, source_seed(seed, number)) for number, reader in readers])


def held_out_score(
    model: Network, data: DataSettings, shards: ShardReader, tokenizer: Tokenizer, *, micro_batch: int, windows: int | None = None
) -> Score | MaskedScore:
    """The model on held-out text: all of it, or so many windows, evenly spaced."""
    context = model.config.context_length
    if isinstance(model, BERT):
        hidden = masking(data, tokenizer, paired(model.config))
        return score_masked(model, held_out_masked(shards.held_out, context, hidden, micro_batch, windows))
    assert isinstance(model, LanguageModel)  # noqa: S101
    batches: Iterator[Batch] = held_out_windows(shards.held_out, context, micro_batch, windows)
    return score_batches(model, batches, tokenizer.byte_lengths())


def held_out_protocol(config: ModelConfig, data: DataSettings, precision: str) -> str:
    """What the numbers of held_out_score mean."""
    if config.causal:
        return protocol(config.context_length, precision)
    return masked_protocol(config.context_length, data.mask_share, precision)


def paired(config: ModelConfig) -> bool:
    """Whether the network tells true pairs of segments from false ones."""
    return "next_sentence" in getattr(config, "parts", ())


def masking(data: DataSettings, tokenizer: Tokenizer, pairs: bool) -> Masking:
    """How this tokenizer's tokens are hidden. Raises ModelError for a tokenizer without the special tokens."""
    ids = {role: tokenizer.role(role) for role in ("cls", "sep", "mask")}
    if missing := [role for role, token in ids.items() if token is None]:
        cure = "make shards with a WordPiece tokenizer: foretell tokenizer train CORPUS --kind wordpiece"
        what = f"the tokenizer has no {' and no '.join(missing)} token, which BERT learns with"
        raise ModelError(what, where="data.shards", cure=cure)
    given: dict[str, int] = {role: token for role, token in ids.items() if token is not None}
    return Masking(
        **given,
        vocab_size=tokenizer.vocab_size,
        specials=tuple(tokenizer.special_ids.values()),
        continues_V=_continuing(tokenizer) if data.whole_word and tokenizer.kind == "wordpiece" else None,
        share=data.mask_share,
        whole_word=data.whole_word,
        next_sentence=pairs and data.next_sentence,
    )


def _continuing(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """(V,) True for pieces within a word: their letters alone, which begin a word, are encoded to something else."""
    texts = [tokenizer.decode_bytes([token]).decode("utf-8", "replace") for token in range(tokenizer.vocab_size)]
    return np.array([ids.tolist() != [token] for token, ids in enumerate(tokenizer.encode_batch(texts))])
