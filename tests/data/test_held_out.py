import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.base.errors import DataError, SettingError
from foretell.base.settings import load_settings
from foretell.data.config import DataSettings
from foretell.data.held_out import LINE_CHARACTERS, HeldOut, chosen, plan


def test_many_documents_are_held_out_whole() -> None:
    sizes = [(f"{number:016x}", 100) for number in range(2000)]
    held_out = plan(sizes, 0.1)
    assert not held_out.ends
    share = sum("held_out" in held_out.split(identity, "text") for identity, _ in sizes) / len(sizes)
    assert 0.07 < share < 0.13


def test_more_documents_never_move_older_ones() -> None:
    old = [f"{number:016x}" for number in range(1000)]
    before, after = plan([(one, 100) for one in old], 0.1), plan([(one, 100) for one in [*old, "f" * 16]], 0.1)
    assert [before.split(one, "text") for one in old] == [after.split(one, "text") for one in old]
    assert all(chosen(one, 0.2) for one in old if chosen(one, 0.1))


@pytest.mark.parametrize("sizes", [[("only", 10_000)], [("small", 100), ("large", 9000), ("other", 900)]])
def test_of_too_few_documents_the_end_of_the_longest_is_held_out(sizes: list[tuple[str, int]]) -> None:
    held_out = plan(sizes, 0.05)
    assert held_out.ends == {max(sizes, key=lambda item: item[1])[0]: 500}
    assert "ends of the longest" in held_out.method


def test_one_giant_chosen_document_is_not_held_out_whole() -> None:
    giant = next(name for number in range(1000) if chosen(name := f"{number:016x}", 0.05))
    assert plan([(giant, 10**6), ("b" * 16, 10**6)], 0.05).ends


def test_never_more_than_half_of_a_document_is_held_out() -> None:
    a, b, c = [name for number in range(100) if not chosen(name := f"{number:016x}", 0.4)][:3]
    assert plan([(c, 2), (a, 10), (b, 8)], 0.4).ends == {a: 5, b: 3}


@pytest.mark.parametrize("sizes", [[], [("a", 0)], [("a", 1), ("b", 1)]])
def test_no_text_is_a_data_error(sizes: list[tuple[str, int]]) -> None:
    with pytest.raises(DataError, match="too few"):
        plan(sizes, 0.05)


@given(st.text(alphabet="ab \né", min_size=2, max_size=60), st.integers(1, 30))
def test_a_split_document_is_whole(text: str, size: int) -> None:
    size = min(size, len(text) // 2)
    parts = HeldOut(method="", fraction=0.1, characters=0, ends={"a": size}).split("a", text)
    assert parts["train"] + parts["held_out"] == text
    assert parts["train"]
    assert len(parts["held_out"]) >= size
    assert HeldOut(method="", fraction=0.1, characters=0, ends={"a": size}).split("b", text) == {"train": text}


@pytest.mark.parametrize(
    ("text", "size", "train"),
    [
        ("one two\nthree four", 3, 8),
        ("one two three", 3, 10),
        ("line\n" + "x" * 2 * LINE_CHARACTERS, 100, 2 * LINE_CHARACTERS - 95),
    ],
)
def test_the_cut_is_at_a_line_that_ends_near(text: str, size: int, train: int) -> None:
    parts = HeldOut(method="", fraction=0.1, characters=0, ends={"a": size}).split("a", text)
    assert len(parts["train"]) == train


@pytest.mark.parametrize("fraction", ["0", "0.5", "-0.1", "lots"])
def test_impossible_fractions_are_refused(fraction: str) -> None:
    with pytest.raises(SettingError, match=r"held_out = .* is not possible"):
        load_settings(DataSettings, None, [f"held_out={fraction}"])
