"""The moving average of the weights, and that looking through it changes nothing."""

import pytest
import torch

from foretell.models.build import build, initialise
from foretell.models.settings import ModelSettings, resolve
from foretell.training.parameters import FlatParameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_average_follows_and_is_only_lent(dtype: torch.dtype) -> None:
    model = build(resolve(ModelSettings(n_layer=1, d_model=32, context_length=16), 50)[0])
    initialise(model, 1)
    parameters, generator = FlatParameters(model, dtype, average=True), torch.Generator().manual_seed(0)
    expected = {name: value.clone() for name, value in parameters.named_masters().items()}
    for _ in range(3):
        for master in parameters.named_masters().values():
            master += torch.randn(master.shape, generator=generator)
        parameters.publish()
        parameters.follow(0.9)
        expected = {name: 0.9 * value + 0.1 * parameters.named_masters()[name] for name, value in expected.items()}
    for name, value in parameters.named_averages().items():
        torch.testing.assert_close(value, expected[name])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masters = {name: value.clone() for name, value in parameters.named_masters().items()}
    with parameters.averaged():
        for name, value in model.named_parameters():
            torch.testing.assert_close(value.data, expected[name].to(dtype))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(masters[name], value) for name, value in parameters.named_masters().items())
