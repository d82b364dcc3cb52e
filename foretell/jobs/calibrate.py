"""How fast a model trains on this machine and how much memory it takes: a few real steps on random tokens."""

import time

import torch

from foretell.base.files import cache_folder
from foretell.compute.allocator import keep_memory
from foretell.compute.compiling import compiled
from foretell.compute.device import DTYPES, Precision, choose_precision, chosen_device, peak_bytes, set_threads
from foretell.data.batches import Batch
from foretell.jobs.recipe import Recipe
from foretell.models.build import build, initialise
from foretell.models.config import ModelConfig
from foretell.models.counts import flops_per_token
from foretell.models.gpt import GPT
from foretell.models.lstm import LSTM
from foretell.planning.duration import Speed
from foretell.training.optimizers import make_optimizers
from foretell.training.parameters import FlatParameters
from foretell.training.state import Progress, TrainState
from foretell.training.step import train_step


def place(recipe: Recipe, config: ModelConfig) -> tuple[torch.device, int, Precision]:
    """Device, threads and precision as a run of this recipe has them here."""
    device, training = chosen_device(recipe.training.device), recipe.training
    threads = set_threads(training.threads, flops_per_token(config) * training.micro_batch * config.context_length)
    return device, threads, choose_precision(training.precision, device, config.d_model)[0]


class Trial:
    """A model that takes real steps on random tokens, as a run of the recipe does."""

    def __init__(self, recipe: Recipe, config: ModelConfig, precision: Precision, device: torch.device) -> None:
        keep_memory()
        self._recipe, model = recipe, build(config)
        initialise(model, seed=0)
        parameters = FlatParameters(model.to(device), DTYPES[precision], average=recipe.training.ema_decay is not None)
        optimizers = make_optimizers(parameters, recipe.optimizer, config)
        self._state = TrainState(model, parameters, optimizers, Progress(steps=10**9))
        if isinstance(model, GPT):
            model.prepare(config.context_length)  # before the graph is traced
            model.checkpoint_activations = recipe.training.checkpoint_activations
        self._forward = compiled(model, device, cache_folder() / "compiled")[0] if recipe.training.compile else None
        self._generator, self._device = torch.Generator().manual_seed(0), device

    def seconds(self, rows: int, pieces: int = 1) -> float:
        """One step over `pieces` micro-batches of `rows` windows."""
        state = self._state
        batches = [self._batch(rows) for _ in range(pieces)]
        if isinstance(state.model, LSTM):
            state.memory = state.model.new_cache(rows * pieces, 0)
        started = time.perf_counter()
        train_step(state, batches, self._recipe.optimizer, self._recipe.schedule, self._recipe.training, self._forward)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - started

    def _batch(self, rows: int) -> Batch:
        config = self._state.model.config
        shape = rows, config.context_length
        tokens_BT = torch.randint(0, config.vocab_size, shape, generator=self._generator)
        if config.causal:
            masked = self._recipe.data.document_mask and isinstance(self._state.model, GPT)
            return Batch(tokens_BT, tokens_BT, torch.ones(shape), documents_BT=torch.zeros_like(tokens_BT) if masked else None)
        hidden_BT = (torch.rand(shape, generator=self._generator) < self._recipe.data.mask_share).float()
        return Batch(tokens_BT, tokens_BT, hidden_BT, torch.zeros_like(tokens_BT), next_B=torch.zeros(rows, dtype=torch.long))


def measured_speed(recipe: Recipe, config: ModelConfig, rows: int, seconds: float = 10.0) -> tuple[Speed, int]:
    """What steps of `rows` windows take, from real steps of one and of two micro-batches in turn; and the most memory, bytes.

    The second micro-batch tells forward and backward from what follows them, so any accumulation can be told.
    """
    device, threads, precision = place(recipe, config)
    trial, micro_batch = Trial(recipe, config, precision, device), min(rows, recipe.training.micro_batch)
    trial.seconds(micro_batch, 2)  # to warm up
    deadline, ones, twos = time.perf_counter() + seconds, list[float](), list[float]()
    while time.perf_counter() < deadline or len(ones) < 3:
        ones.append(trial.seconds(micro_batch))
        twos.append(trial.seconds(micro_batch, 2))
    one = sorted(ones)[len(ones) // 2]
    update = one * min(max(2 - min(twos) / min(ones), 0.0), 0.9)  # its share by the quickest steps: they are disturbed least
    full = (one - update) * recipe.training.micro_batch / micro_batch
    how = f"{threads} threads on {device}, {precision}"
    source = f"measured: {len(ones)} steps of one and of two micro-batches, {how}"
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_bytes()
    return Speed(full, update, source), peak


def tokens_per_second(
    config: ModelConfig, *, micro_batch: int, precision: Precision, device: torch.device, seconds: float = 1.5
) -> float:
    """The median speed of real steps over about `seconds`, after one to warm up."""
    trial = Trial(Recipe(), config, precision, device)
    trial.seconds(micro_batch)
    deadline, taken = time.perf_counter() + seconds, list[float]()
    while time.perf_counter() < deadline or len(taken) < 3:
        taken.append(trial.seconds(micro_batch))
    return micro_batch * config.context_length / sorted(taken)[len(taken) // 2]
