"""Checkpoints: a Hugging Face model directory plus what training needs to go on exactly; sealed with digests.

step-00000500/  config.json, model.safetensors (fp32 masters), tokenizer…   opens in transformers as it is
                optimizer.safetensors   moments and averaged weights by name (exp_avg.NAME, …), updates done, random state
                training_state.json     counters, schedule's end, threads, versions
                digests.json            verified when read
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foretell.base.errors import CheckpointError
from foretell.base.files import SEAL, atomic_path, damaged_files, remove, seal
from foretell.base.records import dump, read_json
from foretell.interop.huggingface import load_any, save_model
from foretell.models.cache import LSTMState
from foretell.tokenizers.tokenizer import Tokenizer
from foretell.training.state import Progress, TrainState

OPTIMIZER, STATE, VERSION = "optimizer.safetensors", "training_state.json", 2
AVERAGE, MOMENTS = "average.", ("exp_avg.", "exp_avg_sq.", "momentum_buffer.")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def save_checkpoint(
    folder: Path, state: TrainState, tokenizer: Tokenizer, environment: dict[str, Any], keep: int, due: bool = True
) -> Path:
    """Write the state's checkpoint atomically, then drop all but the newest `keep`, the best and the last good one.

    due: it is written at this step whatever happens, not because the run was interrupted.
    """
    progress = state.progress
    if due and not progress.strikes:
        progress.good_step = progress.step
    path = checkpoint_path(folder, progress.step)
    if not path.exists():
        with atomic_path(path) as partial:
            partial.mkdir()
            save_model(partial, state.model, tokenizer, state.parameters.named_masters())
            save_file(_optimizer_tensors(state), partial / OPTIMIZER)
            lasting = progress.stop_reason if progress.stop_reason != "interrupted" else None  # a resumed run goes on
            values = {"version": VERSION, "progress": asdict(progress) | {"stop_reason": lasting}, "environment": environment}
            (partial / STATE).write_text(dump(values, indent=1))
            seal(partial)
    needed = {checkpoint_path(folder, step) for step in (progress.best_step, progress.good_step) if step is not None}
    for old in checkpoints(folder)[:-keep]:
        if old not in needed:
            remove(old)
    return path


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
    """Put a verified checkpoint into a state: weights, averages, moments, random state, counters."""
    vars(state.progress).update(vars(read_state(path)[0]))  # in place: others hold it
    tensors = load_file(path / OPTIMIZER)
    averages = {name.removeprefix(AVERAGE): tensor for name, tensor in tensors.items() if name.startswith(AVERAGE)}
    state.parameters.load(load_any(path).state_dict(), averages)
    moments = {name: tensor for name, tensor in tensors.items() if name.startswith(MOMENTS)}
    state.parameters.load_moments(moments, tensors["updates"], state.optimizers)
    state.memory = None
    if "memory" in tensors:
        device = state.model.head.weight.device
        hidden_LBU, cell_LBU = tensors["memory"].to(device).unbind()
        state.memory = LSTMState(hidden_LBU, cell_LBU)
    torch.set_rng_state(tensors["random_state"])
    if torch.cuda.is_available() and "cuda_random_state" in tensors:
        torch.cuda.set_rng_state(tensors["cuda_random_state"])


def averaged_weights(path: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint; empty where the run keeps none."""
    tensors = load_file(path / OPTIMIZER)
    return {name.removeprefix(AVERAGE): tensor for name, tensor in tensors.items() if name.startswith(AVERAGE)}


def _optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    updates = [values["step"] for optimizer in state.optimizers for values in optimizer.state.values() if "step" in values]
    tensors = {"random_state": torch.get_rng_state(), "updates": updates[0].cpu() if updates else torch.zeros(())}
    tensors |= {AVERAGE + name: tensor.cpu() for name, tensor in state.parameters.named_averages().items()}
    tensors |= {name: tensor.cpu() for name, tensor in state.parameters.named_moments(state.optimizers).items()}
    if state.memory is not None:
        tensors["memory"] = torch.stack([state.memory.hidden_LBU, state.memory.cell_LBU]).cpu()
    if torch.cuda.is_available():
        tensors["cuda_random_state"] = torch.cuda.get_rng_state()
    return tensors
