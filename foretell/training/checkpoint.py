"""Checkpoints: a Hugging Face model directory plus what training needs to go on exactly; sealed with digests.

step-00000500/  config.json, model.safetensors (fp32 masters), tokenizer…   opens in transformers as it is
                optimizer.safetensors   Adam's two moments, its step, the random state
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

OPTIMIZER, STATE, VERSION = "optimizer.safetensors", "training_state.json", 1


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def save_checkpoint(folder: Path, state: TrainState, tokenizer: Tokenizer, environment: dict[str, Any], keep: int) -> Path:
    """Write the state's checkpoint atomically, then drop all but the newest `keep` and the best."""
    path = checkpoint_path(folder, state.progress.step)
    if not path.exists():
        with atomic_path(path) as partial:
            partial.mkdir()
            save_model(partial, state.model, tokenizer, state.parameters.named_masters())
            save_file(_optimizer_tensors(state), partial / OPTIMIZER)
            lasting = state.progress.stop_reason if state.progress.stop_reason != "interrupted" else None  # a resumed run goes on
            progress = asdict(state.progress) | {"stop_reason": lasting}
            (partial / STATE).write_text(dump({"version": VERSION, "progress": progress, "environment": environment}, indent=1))
            seal(partial)
    for old in checkpoints(folder)[:-keep]:
        if state.progress.best_step is None or old != checkpoint_path(folder, state.progress.best_step):
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
    if values.get("version", 0) > VERSION:
        raise CheckpointError("a newer Foretell wrote this checkpoint", where=str(path / STATE), cure="upgrade foretell")
    return Progress(**values["progress"]), values["environment"]


def restore(path: Path, state: TrainState) -> None:
    """Put a verified checkpoint into a freshly built state: weights, moments, random state, counters."""
    state.progress, _ = read_state(path)
    state.parameters.load(load_any(path).state_dict())
    tensors = load_file(path / OPTIMIZER)
    for index, group in enumerate(state.optimizer.param_groups):
        master = group["params"][0]
        moments = {name: tensors[f"{name}.{index}"].to(master.device) for name in ("exp_avg", "exp_avg_sq")}
        state.optimizer.state[master] = {"step": tensors["step"].clone(), **moments}
    if "memory" in tensors:
        device = state.model.head.weight.device
        hidden_LBU, cell_LBU = tensors["memory"].to(device).unbind()
        state.memory = LSTMState(hidden_LBU, cell_LBU)
    torch.set_rng_state(tensors["random_state"])
    if torch.cuda.is_available() and "cuda_random_state" in tensors:
        torch.cuda.set_rng_state(tensors["cuda_random_state"])


def _optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    tensors = {"random_state": torch.get_rng_state(), "step": torch.zeros(())}
    for index, group in enumerate(state.optimizer.param_groups):
        master = group["params"][0]
        moments = state.optimizer.state.get(master) or {name: torch.zeros_like(master) for name in ("exp_avg", "exp_avg_sq")}
        tensors |= {f"{name}.{index}": moments[name].cpu() for name in ("exp_avg", "exp_avg_sq")}
        tensors["step"] = moments.get("step", tensors["step"]).cpu()
    if state.memory is not None:
        tensors["memory"] = torch.stack([state.memory.hidden_LBU, state.memory.cell_LBU]).cpu()
    if torch.cuda.is_available():
        tensors["cuda_random_state"] = torch.cuda.get_rng_state()
    return tensors
