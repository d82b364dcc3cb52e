"""Hardware by name, and this machine with what its container allows."""

from pathlib import Path

import pytest

from foretell.base.errors import SettingError
from foretell.planning import hardware
from foretell.planning.hardware import named, profiles, this_machine


def test_profiles_are_whole_and_plausible() -> None:
    for name, profile in profiles().items():
        assert 0.1 < profile.share < 0.9, name
        assert 4e9 < profile.memory_bytes < 300e9 and 1e10 < profile.bandwidth < 1e13, name
        assert max(profile.peak_flops.values()) > 1e11 and profile.peak_flops["fp32"] <= max(profile.peak_flops.values()), name
    assert {"cpu-laptop", "a100-40gb", "a100", "h100", "h200", "b200", "l4", "t4", "rtx-3090", "rtx-4090", "mi300x"} <= set(
        profiles()
    )


@pytest.mark.parametrize(
    ("text", "name", "devices"),
    [("h100", "h100", 1), ("H100x8", "h100", 8), ("rtx-4090x2", "rtx-4090", 2), ("mi300x", "mi300x", 1), ("mi300x8", "mi300x", 8)],
)
def test_a_name_says_how_many(text: str, name: str, devices: int) -> None:
    assert named(text).title == profiles()[name].title and named(text).devices == devices


@pytest.mark.parametrize(("text", "cure"), [("h10", "did you mean h100?"), ("h100x0", "did you mean h100?"), ("??", "one of cpu-")])
def test_an_unknown_name_is_refused(text: str, cure: str) -> None:
    with pytest.raises(SettingError, match="there is no hardware") as caught:
        named(text)
    assert caught.value.cure.startswith(cure)


def test_narrow_models_reach_less_of_the_peak() -> None:
    h100 = named("h100")
    assert h100.expected_share(4096) == h100.expected_share(h100.width) == h100.share
    assert h100.expected_share(h100.width // 4) == h100.share / 2
    assert h100.expected_flops("bf16", 4096) == 989e12 * h100.share
    assert named("t4").expected_flops("bf16", 4096) == named("t4").expected_flops("fp32", 4096) / 2  # it has no units for bf16


@pytest.mark.parametrize(
    ("name", "setting", "width", "precision"),
    [
        ("h100", "auto", 64, "bf16"),
        ("h100", "auto", 63, "fp32"),
        ("h100", "fp32", 4096, "fp32"),
        ("t4", "auto", 4096, "fp32"),
        ("cpu-laptop", "auto", 768, "fp32"),
        ("cpu-laptop", "bf16", 768, "bf16"),
    ],
)
def test_precision_is_what_the_hardware_gains_from(name: str, setting: str, width: int, precision: str) -> None:
    assert named(name).precision(setting, width) == precision


def test_this_machine_is_its_cores_and_free_memory() -> None:
    here = this_machine("cpu")
    assert here.guessed and here.kind == "cpu" and here.price_per_hour == 0
    assert 2e8 < here.memory_bytes <= hardware.psutil.virtual_memory().total
    assert here.peak_flops["fp32"] >= 30e9


def test_a_containers_limit_counts_and_its_file_caches_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"most": "1000000\n", "used": "600000\n", "memory.stat": "anon 5\ninactive_file 150000\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(hardware, "CGROUPS", ((tmp_path / "absent", "most", "used"), (tmp_path, "most", "used")))
    assert hardware.free_bytes() == 550_000
    (tmp_path / "most").write_text("max\n")
    assert hardware.free_bytes() > 1e7
