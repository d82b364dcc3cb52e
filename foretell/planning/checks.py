"""What a run is refused for before its first step, whether it is planned or begun (no torch). All raise SettingError."""

from foretell.base.errors import SettingError
from foretell.models.config import LSTMConfig, ModelConfig, TransformerConfig


def require_divisible(batch_tokens: int, context: int) -> int:
    """The windows of a batch, which are whole."""
    if batch_tokens % context:
        what = f"batch_tokens = {batch_tokens} is not a multiple of context_length = {context}"
        cure = f"training.batch_tokens={max(1, round(batch_tokens / context)) * context}"
        raise SettingError(what, where="[training]", cure=cure)
    return batch_tokens // context


def require_windows(windows: int, processes: int) -> None:
    """At least one window of each batch for each process; said as Ranks.share says it."""
    if windows < processes:
        what = f"{processes} processes cannot share a batch of {windows} windows"
        cure = f"set training.batch_tokens to {processes} · context_length or more, or start {windows} processes"
        raise SettingError(what, where="training.batch_tokens", cure=cure)


def require_spreadable(config: ModelConfig, compiled: bool) -> None:
    """A model that is to be spread over processes (FSDP) has layers of one kind, and is not compiled."""
    if isinstance(config, LSTMConfig):
        what = "a network without layers of one kind cannot be spread over processes"
        raise SettingError(what, where="training.parallel=fsdp", cure="training.parallel=ddp")
    if compiled:
        what = "this cannot be used for a model that is spread over processes (FSDP)"
        raise SettingError(what, where="training.compile=true", cure="training.parallel=ddp, or leave it out")


def require_suited(
    config: ModelConfig, name: str, *, document_mask: bool, checkpoint_activations: bool, batch_ramp_steps: int
) -> None:
    """Settings that only some networks can be trained with. name: of the network, as the error calls it."""
    decoder = isinstance(config, TransformerConfig) and config.causal
    for key, wanted, able in (
        ("data.document_mask", document_mask, decoder),
        ("training.checkpoint_activations", checkpoint_activations, decoder),
        ("schedule.batch_ramp_steps", batch_ramp_steps, not isinstance(config, LSTMConfig)),
    ):
        if wanted and not able:
            raise SettingError(f"a {name} cannot be trained with this", where=key, cure=f"leave {key} out")
