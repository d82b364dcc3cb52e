"""How fast a model trains on this machine: a few real steps on random tokens."""

import time

import torch

from foretell.compute.device import DTYPES, Precision
from foretell.data.batches import Batch
from foretell.models.build import build, initialise
from foretell.models.config import ModelConfig
from foretell.training.config import OptimizerSettings, ScheduleSettings
from foretell.training.parameters import FlatParameters
from foretell.training.state import Progress, TrainState, make_optimizer
from foretell.training.step import train_step


def tokens_per_second(
    config: ModelConfig, *, micro_batch: int, precision: Precision, device: torch.device, seconds: float = 1.5
) -> float:
    """The median speed of real steps over about `seconds`, after one to warm up."""
    model = build(config)
    initialise(model, seed=0)
    parameters = FlatParameters(model.to(device), DTYPES[precision])
    optimizer, schedule = OptimizerSettings(), ScheduleSettings()
    state = TrainState(model, parameters, make_optimizer(parameters, optimizer), Progress(steps=10**9))
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(0, config.vocab_size, (micro_batch, config.context_length), generator=generator)
    batch = Batch(tokens_BT, tokens_BT, torch.ones(tokens_BT.shape))
    train_step(state, [batch], optimizer, schedule)
    deadline, taken = time.perf_counter() + seconds, list[float]()
    while time.perf_counter() < deadline or len(taken) < 3:
        taken.append(train_step(state, [batch], optimizer, schedule).seconds)
    return tokens_BT.numel() / sorted(taken)[len(taken) // 2]
