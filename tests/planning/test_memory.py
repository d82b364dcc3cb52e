"""The memory of a run grows with what makes it grow, and a run that will not fit is refused with a cure that helps."""

import re
from typing import Any

import pytest
import torch

from foretell.base.errors import CapacityError
from foretell.models.build import build
from foretell.models.config import ModelConfig
from foretell.models.counts import parameter_count
from foretell.models.settings import ModelSettings, resolve
from foretell.planning.memory import require_memory, training_memory


def config_of(n_layer: int = 4, context_length: int = 256, vocab_size: int = 2000) -> ModelConfig:
    return resolve(ModelSettings(n_layer=n_layer, d_model=128, context_length=context_length), vocab_size)[0]


def total(config: ModelConfig, micro_batch: int = 8, precision: str = "fp32") -> int:
    return training_memory(config, micro_batch=micro_batch, precision=precision).total


def test_more_of_anything_takes_more() -> None:
    base = total(config_of())
    assert total(config_of(), micro_batch=16) > base
    assert total(config_of(n_layer=8)) > base
    assert total(config_of(context_length=512)) > base
    assert total(config_of(vocab_size=8000)) > base


def test_bf16_halves_activations_and_keeps_fp32_masters() -> None:
    fp32, bf16 = (training_memory(config_of(), micro_batch=8, precision=precision) for precision in ("fp32", "bf16"))
    assert bf16.activations == fp32.activations / 2 and bf16.optimizer == fp32.optimizer and bf16.weights == 1.5 * fp32.weights
    assert fp32.weights == 4 * parameter_count(config_of())
    assert fp32.total == fp32.weights + fp32.gradients + fp32.optimizer + fp32.activations + fp32.logits


KINDS: dict[str, dict[str, Any]] = {
    "modern": {"n_layer": 4, "d_model": 128},
    "gpt1": {"n_layer": 4, "d_model": 128},
    "gpt3": {"n_layer": 4, "d_model": 128, "window": 64},
    "llama": {"n_layer": 2, "d_model": 128},
    "bert": {"n_layer": 4, "d_model": 128},
    "lstm": {"n_layer": 2, "d_model": 64, "d_hidden": 96},
    "lstm-wide": {"preset": "lstm", "n_layer": 1, "d_model": 48, "d_hidden": 256},
}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_of_activations_is_near_what_autograd_keeps(kind: str, dropout: float) -> None:
    settings = {"preset": kind, "context_length": 256, "dropout": dropout, **KINDS[kind]}
    config, kept = resolve(ModelSettings.model_validate(settings), 2000)[0], dict[int, int]()

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model = build(config).train()
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        model(torch.zeros(4, config.context_length, dtype=torch.int64))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    measured = sum(size for pointer, size in kept.items() if pointer not in weights)
    assert 0.9 < training_memory(config, micro_batch=4, precision="fp32").activations / measured < 3.2


@pytest.mark.parametrize("micro_batch", [64, 1])
def test_a_run_that_will_not_fit_is_refused_with_a_setting_that_helps(micro_batch: int) -> None:
    config = config_of()
    plan = training_memory(config, micro_batch=micro_batch, precision="fp32")
    with pytest.raises(CapacityError, match=r"not enough memory: about .* needed, .* free") as caught:
        require_memory(plan, plan.total - 1, config, micro_batch)
    assert caught.value.exit_code == 3
    setting = "training.micro_batch" if micro_batch > 1 else "model.n_layer"
    found = re.search(rf"{setting}=(\d+) \(now (\d+)", caught.value.cure)
    assert found and int(found[2]) == (micro_batch if micro_batch > 1 else 4) and int(found[1]) == int(found[2]) // 2


def test_a_run_that_fits_is_let_through() -> None:
    plan = training_memory(config_of(), micro_batch=8, precision="fp32")
    require_memory(plan, plan.total, config_of(), 8)
