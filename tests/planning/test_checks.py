"""A plan refuses in the words in which a run is refused."""

import pytest

from foretell.base.errors import SettingError
from foretell.compute.distributed import Ranks
from foretell.models.config import ModelConfig
from foretell.models.settings import ModelSettings, resolve
from foretell.planning.checks import require_divisible, require_spreadable, require_suited, require_windows


def config_of(preset: str) -> ModelConfig:
    return resolve(ModelSettings.model_validate({"preset": preset, "n_layer": 1, "d_model": 64}), 300)[0]


def test_a_batch_is_whole_windows() -> None:
    assert require_divisible(1024, 256) == 4
    with pytest.raises(SettingError, match="batch_tokens = 1000 is not a multiple of context_length = 256") as caught:
        require_divisible(1000, 256)
    assert caught.value.cure == "training.batch_tokens=1024"


def test_more_processes_than_windows_are_refused_as_they_are_when_a_batch_is_dealt() -> None:
    require_windows(8, 8)
    with pytest.raises(SettingError, match="9 processes cannot share a batch of 8 windows") as planned:
        require_windows(8, 9)
    with pytest.raises(SettingError) as dealt:
        Ranks(size=9).share(8)
    assert str(planned.value) == str(dealt.value)


def test_what_cannot_be_spread() -> None:
    require_spreadable(config_of("gpt2"), compiled=False)
    require_spreadable(config_of("bert"), compiled=False)
    for preset, compiled, where in (("lstm", False, "training.parallel=fsdp"), ("gpt2", True, "training.compile=true")):
        with pytest.raises(SettingError) as caught:
            require_spreadable(config_of(preset), compiled)
        assert caught.value.where == where and caught.value.cure.startswith("training.parallel=ddp")


@pytest.mark.parametrize(
    ("key", "refused"),
    [("document_mask", {"bert", "lstm"}), ("checkpoint_activations", {"bert", "lstm"}), ("batch_ramp_steps", {"lstm"})],
)
def test_what_only_some_networks_can_be_trained_with(key: str, refused: set[str]) -> None:
    for preset in ("gpt2", "bert", "lstm"):
        wishes = {"document_mask": False, "checkpoint_activations": False, "batch_ramp_steps": 0} | {key: 1}
        if preset not in refused:
            require_suited(config_of(preset), preset, **wishes)  # type: ignore[arg-type]
            continue
        with pytest.raises(SettingError, match=f"a {preset} cannot be trained with this") as caught:
            require_suited(config_of(preset), preset, **wishes)  # type: ignore[arg-type]
        assert caught.value.cure.endswith(f".{key} out")
