"""Checkpoints: a Hugging Face model directory plus what training needs to go on exactly; sealed with digests.

step-00000500/  config.json, model.safetensors (fp32 masters), tokenizer…   opens in transformers as it is
                optimizer.safetensors   moments and averaged weights by name (exp_avg.NAME, …), updates done, random state
                training_state.json     counters, schedule's end, threads, versions
                digests.json            verified when read
                shards/                 of a model that is spread over ranks: its weights and moments, instead of the above
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foretell.base.errors import CheckpointError
from foretell.base.files import SEAL, atomic_path, damaged_files, remove, seal
from foretell.base.records import dump, read_json
from foretell.compute.distributed import Ranks
from foretell.interop.huggingface import load_any, load_model, save_model
from foretell.models.cache import LSTMState
from foretell.models.network import Network
from foretell.tokenizers.tokenizer import Tokenizer
from foretell.training.state import Progress, TrainState

OPTIMIZER, STATE, SHARDS, VERSION = "optimizer.safetensors", "training_state.json", "shards", 2
AVERAGE, MOMENTS = "average.", ("exp_avg.", "exp_avg_sq.", "momentum_buffer.")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


@dataclass(frozen=True)
class Snapshot:
    """A state at a moment, ready to be written. model: its config counts. small: what is no parameter's (random state, memory)."""

    model: Network
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    small: dict[str, Tensor]
    progress: Progress


def snapshot(state: TrainState) -> Snapshot:
    """What a checkpoint of this state holds; weights and moments are views. On all ranks."""
    parameters, progress = state.parameters, replace(state.progress)
    if progress.stop_reason == "interrupted":
        progress.stop_reason = None  # a resumed run goes on
    moments = {AVERAGE + name: tensor for name, tensor in parameters.named_averages().items()}
    moments |= parameters.named_moments(state.optimizers)
    return Snapshot(state.model, parameters.named_masters(), moments, _small_tensors(state), progress)


def write_checkpoint(path: Path, taken: Snapshot, tokenizer: Tokenizer, environment: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    with atomic_path(path) as partial:
        partial.mkdir()
        save_model(partial, taken.model, tokenizer, taken.weights)
        write_rest(partial, taken, environment)
        seal(partial)


def write_rest(folder: Path, taken: Snapshot, environment: dict[str, Any]) -> None:
    """All of a checkpoint but the model."""
    save_file({name: tensor.cpu() for name, tensor in (taken.moments | taken.small).items()}, folder / OPTIMIZER)
    values = {"version": VERSION, "progress": asdict(taken.progress), "environment": environment}
    (folder / STATE).write_text(dump(values, indent=1))


def prune(folder: Path, keep: int, progress: Progress) -> None:
    """Drop all checkpoints but the newest `keep`, the best and the last good one."""
    needed = {checkpoint_path(folder, step) for step in (progress.best_step, progress.good_step) if step is not None}
    for old in checkpoints(folder)[:-keep]:
        if old not in needed:
            remove(old)


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint, if any, verified. Raises CheckpointError when it is damaged, naming an intact older one."""
    found = checkpoints(folder)
    if not found:
        return None
    damage = damaged_files(found[-1]) if (found[-1] / SEAL).exists() else [f"{SEAL} is missing"]
    if damage:
        intact = next((path for path in reversed(found[:-1]) if not damaged_files(path)), None)
        cure = f"move it away: --resume then continues from {intact.name}, which is intact" if intact else "restore it from a copy"
        raise CheckpointError(f"the checkpoint is damaged: {damage[0]}", where=str(found[-1]), cure=cure)
    return found[-1]


def read_state(path: Path) -> tuple[Progress, dict[str, Any]]:
    """The counters and the environment of a checkpoint."""
    values = read_json(path / STATE)
    if (version := values.get("version", 0)) != VERSION:
        what, cure = f"a {'newer' if version > VERSION else 'older'} Foretell wrote this checkpoint", "continue with that version"
        start = f"{cure}, or begin a new run from its weights: model.start_from={path}"
        raise CheckpointError(what, where=str(path / STATE), cure="upgrade foretell" if version > VERSION else start)
    return Progress(**values["progress"]), values["environment"]


def restore(path: Path, state: TrainState) -> None:
    """Put a verified checkpoint into a state, at any number of ranks: weights, averages, moments, random state, counters."""
    vars(state.progress).update(vars(read_state(path)[0]))  # in place: others hold it
    tensors = load_file(path / OPTIMIZER)
    if (path / SHARDS).is_dir():
        from foretell.training.sharded import read_shards

        tensors |= (weights := read_shards(path / SHARDS, state.parameters.named_masters()))
    else:
        weights = load_any(path).state_dict()
    averages = {name.removeprefix(AVERAGE): tensor for name, tensor in tensors.items() if name.startswith(AVERAGE)}
    state.parameters.load(weights, averages)
    moments = {name: tensor for name, tensor in tensors.items() if name.startswith(MOMENTS)}
    state.parameters.load_moments(moments, tensors["updates"], state.optimizers)
    state.memory = None
    if "memory" in tensors:
        device = state.model.head.weight.device
        hidden_LBU, cell_LBU = tensors["memory"].to(device).unbind()
        own = state.ranks.share(hidden_LBU.shape[1])
        state.memory = LSTMState(hidden_LBU, cell_LBU).rows(own.start, len(own))
    torch.set_rng_state(tensors["random_state"])
    if torch.cuda.is_available() and "cuda_random_state" in tensors:
        torch.cuda.set_rng_state(tensors["cuda_random_state"])


def kept_weights(path: Path, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's whole weights, of which a finished model is made: the averages, where the run keeps any. Verified.

    like: tensors of the model's names and shapes.
    """
    if (path / SHARDS).is_dir():
        from foretell.training.sharded import read_shards

        if damaged := damaged_files(path):
            raise CheckpointError(f"the checkpoint is damaged: {damaged[0]}", where=str(path), cure="restore it from a copy")
        tensors = read_shards(path / SHARDS, {name: torch.empty(tensor.shape) for name, tensor in like.items()})
        weights = {name: tensor for name, tensor in tensors.items() if name in like}
    else:
        weights, tensors = load_model(path).state_dict(), load_file(path / OPTIMIZER)
    return {name.removeprefix(AVERAGE): tensor for name, tensor in tensors.items() if name.startswith(AVERAGE)} or weights


def _small_tensors(state: TrainState) -> dict[str, Tensor]:
    updates = [values["step"] for optimizer in state.optimizers for values in optimizer.state.values() if "step" in values]
    tensors = {"random_state": torch.get_rng_state(), "updates": updates[0].cpu() if updates else torch.zeros(())}
    if state.memory is not None:
        tensors["memory"] = _whole_memory(state.memory, state.ranks)
    if torch.cuda.is_available():
        tensors["cuda_random_state"] = torch.cuda.get_rng_state()
    return tensors


def _whole_memory(memory: LSTMState, ranks: Ranks) -> Tensor:
    """(2, L, B, U): the rows of all ranks."""
    own = torch.stack([memory.hidden_LBU, memory.cell_LBU])
    rows = round(ranks.sums([own.shape[2]])[0])
    mine, whole = ranks.share(rows), own.new_zeros(2, own.shape[1], rows, own.shape[3])
    whole[:, :, mine.start : mine.stop] = own
    ranks.all_reduce(whole)
    return whole.cpu()
