"""The memory of a run grows with what makes it grow, and a run that will not fit is refused with a cure that helps."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from foretell.base.errors import CapacityError
from foretell.models.build import build
from foretell.models.config import ModelConfig
from foretell.models.counts import matrix_parameters, parameter_count
from foretell.models.settings import ModelSettings, resolve
from foretell.planning.memory import MemoryPlan, cure, plan_memory, require_memory, training_memory


def config_of(n_layer: int = 4, context_length: int = 256, vocab_size: int = 2000) -> ModelConfig:
    return resolve(ModelSettings(n_layer=n_layer, d_model=128, context_length=context_length), vocab_size)[0]


def plan_of(config: ModelConfig | None = None, micro_batch: int = 8, precision: str = "fp32", **more: Any) -> MemoryPlan:
    return training_memory(config or config_of(), micro_batch=micro_batch, precision=precision, **more)


def test_more_of_anything_takes_more() -> None:
    base = plan_of().total
    assert plan_of(micro_batch=16).total > base
    assert plan_of(config_of(n_layer=8)).total > base
    assert plan_of(config_of(context_length=512)).total > base
    assert plan_of(config_of(vocab_size=8000)).total > base


def test_fp32_masters_gradients_and_two_moments_and_in_bf16_working_weights() -> None:
    fp32, bf16, parameters = plan_of(), plan_of(precision="bf16"), parameter_count(config_of())
    assert (fp32.weights, fp32.gradients, fp32.optimizer) == (4 * parameters, 4 * parameters, 8 * parameters)
    assert (bf16.weights, bf16.optimizer) == (6 * parameters, 8 * parameters) and bf16.gradients >= fp32.gradients
    assert fp32.total == sum(fp32.parts.values()) and "workload" not in fp32.parts


def test_what_settings_change() -> None:
    base, parameters = plan_of(), parameter_count(config_of())
    assert plan_of(optimizer="muon").optimizer == base.optimizer - 4 * matrix_parameters(config_of())
    assert plan_of(optimizer="sgd").optimizer == 4 * parameters
    assert plan_of(ema=True).weights == base.weights + 4 * parameters
    assert plan_of(staging=True).staging == 12 * parameters and base.staging == 0
    assert plan_of(checkpoint_activations=True).activations < base.activations / 2
    assert plan_of(kind="cuda", precision="bf16").activations < plan_of(precision="bf16").activations  # no scores are kept there


@pytest.mark.parametrize(("precision", "value_bytes"), [("fp32", 4), ("bf16", 2)])
def test_split_over_processes_each_holds_its_share_and_some_of_it_whole(precision: str, value_bytes: int) -> None:
    config = config_of()
    whole, share = plan_of(kind="cuda", precision=precision), plan_of(kind="cuda", precision=precision, shards=8)
    rows, head = -(-parameter_count(config) // 8), config.vocab_size * config.d_model
    assert (share.weights, share.gradients, share.optimizer) == (4 * rows, 4 * rows, 8 * rows)  # no working copy in bf16
    assert whole.gathered == 0 and share.activations == whole.activations
    layers = 4 * value_bytes * matrix_parameters(config) // config.n_layer
    assert share.gathered == layers + 2 * value_bytes * head  # a tied table, and its gradient
    untied = plan_of(config.replace(tied=False), kind="cuda", precision=precision, shards=8)
    assert untied.gathered == share.gathered + 2 * value_bytes * head
    assert share.logits == whole.logits + (4 * head if precision == "bf16" else 0)  # the loss has no sum to add to


def test_what_the_host_keeps_is_not_on_the_gpu() -> None:
    share, offloaded = plan_of(kind="cuda", shards=8), plan_of(kind="cuda", shards=8, offload=True)
    assert (offloaded.weights, offloaded.gradients, offloaded.optimizer) == (0, 0, 0)
    assert share.total - offloaded.total == share.weights + share.gradients + share.optimizer
    assert plan_of(kind="cuda", offload=True).total == plan_of(kind="cuda").total  # whole on one device
    assert plan_of(shards=8, offload=True).total == plan_of(shards=8).total  # in the host's memory already


def test_nothing_is_judged_by_the_copy_that_is_made_where_there_is_room() -> None:
    plan = plan_of(staging=True)
    assert plan.needed == plan.total - plan.staging == plan_of().total
    require_memory(plan, plan.needed - plan.libraries, config_of(), 8)


KINDS: dict[str, dict[str, Any]] = {
    "modern": {"n_layer": 4, "d_model": 128},
    "gpt1": {"n_layer": 4, "d_model": 128},
    "gpt3": {"n_layer": 4, "d_model": 128, "window": 64},
    "llama": {"n_layer": 2, "d_model": 128},
    "bert": {"n_layer": 4, "d_model": 128},
    "lstm": {"n_layer": 2, "d_model": 64, "d_hidden": 96},
    "lstm-wide": {"preset": "lstm", "n_layer": 1, "d_model": 48, "d_hidden": 256},
}


def kept_by_autograd(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that a forward pass over four windows keeps for the backward pass, weights left out."""
    kept = dict[int, torch.Tensor]()

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    model = build(config).train().to(dtype)
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        model(torch.zeros(4, config.context_length, dtype=torch.int64))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in weights)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_of_activations_is_what_autograd_keeps(kind: str, precision: str, dropout: float) -> None:
    settings = {"preset": kind, "context_length": 256, "dropout": dropout, **KINDS[kind]}
    config = resolve(ModelSettings.model_validate(settings), 2000)[0]
    kept = kept_by_autograd(config, torch.bfloat16 if precision == "bf16" else torch.float32)
    said = plan_of(config, micro_batch=4, precision=precision).activations
    assert 0.9 < said / kept < 1.15


def setting(name: str, text: str) -> int:
    found = re.search(rf"{name}=(\d+)", text)
    assert found, text
    return int(found[1])


def test_a_run_that_will_not_fit_is_refused_with_the_micro_batch_that_fits() -> None:
    plan = plan_of(micro_batch=64)
    free = plan.total - plan.libraries - plan.activations // 2
    with pytest.raises(CapacityError, match=r"not enough memory: about .* needed, .* free") as caught:
        require_memory(plan, free, config_of(), 64)
    assert caught.value.exit_code == 3 and "now 64" in caught.value.cure
    fits = plan_of(micro_batch=setting("training.micro_batch", caught.value.cure))
    assert fits.total - fits.libraries <= free


def test_where_a_smaller_batch_does_not_help_layers_are_computed_twice() -> None:
    plan = plan_of(micro_batch=1)
    available = plan_of(micro_batch=1, checkpoint_activations=True).total + 1
    assert cure(plan.workload, available) == "training.checkpoint_activations=true"
    assert "training.micro_batch=1" in cure(plan_of(micro_batch=4).workload, available)


def test_where_nothing_else_helps_a_smaller_model_is_named_that_fits() -> None:
    plan = plan_of(config_of(n_layer=16), micro_batch=2, checkpoint_activations=True)
    available = plan_of(config_of(n_layer=5), micro_batch=1, checkpoint_activations=True).total
    n_layer = setting("model.n_layer", cure(plan.workload, available))
    tried = replace(plan.workload, config=config_of(n_layer=n_layer), micro_batch=1)
    assert n_layer < 16 and plan_memory(tried).total <= available
    assert "model.d_model (now 128)" in cure(plan.workload, 1000)


def test_what_the_host_can_keep_is_named_before_a_smaller_model() -> None:
    share = plan_of(config_of(n_layer=64), micro_batch=1, kind="cuda", shards=2)
    offloaded = replace(share.workload, offload=True, checkpoint_activations=True)
    available = plan_memory(offloaded).total
    told = cure(share.workload, available)
    assert told.startswith("training.cpu_offload=true training.checkpoint_activations=true; ") and "of the host's memory" in told
    assert "cpu_offload" not in cure(plan_of(config_of(n_layer=64), micro_batch=1, kind="cuda").workload, available)
    smaller = cure(share.workload, available - 1)
    assert smaller.startswith("a smaller model: model.n_layer=63 ")
    assert smaller.endswith("training.micro_batch=1 training.cpu_offload=true training.checkpoint_activations=true")
    assert cure(offloaded, available - 1).endswith("with training.micro_batch=1 training.checkpoint_activations=true")


@pytest.mark.parametrize("kind", ["bert", "lstm"])
def test_layers_are_computed_twice_in_decoders_only(kind: str) -> None:
    config = resolve(ModelSettings.model_validate({"preset": kind, **KINDS[kind]}), 2000)[0]
    plan = plan_of(config, micro_batch=4, checkpoint_activations=True)
    assert plan.activations == plan_of(config, micro_batch=4).activations
    assert "checkpoint_activations" not in cure(plan.workload, plan_of(config, micro_batch=1).total - 1)


def test_a_run_that_fits_is_let_through() -> None:
    plan = plan_of()
    require_memory(plan, plan.total - plan.libraries, config_of(), 8)  # the libraries are there already
