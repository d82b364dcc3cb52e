"""Ranks sum, share, wait for one another, and say once which of them is missing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from foretell.base.errors import DataError, SettingError
from foretell.compute.distributed import Ranks, ranks

Ended = dict[str, list[tuple[int, str]]]  # by scenario and rank: exit code, what was told

STEP_OF_THE_END = 7


def sums(folder: Path) -> None:
    with ranks("cpu", 30) as here:
        tensor = torch.full((3,), float(here.rank))
        here.all_reduce(tensor)
        assert tensor.tolist() == [3.0, 3.0, 3.0]
        assert here.sums([1.0, here.rank, 1e17 + here.rank]) == [3.0, 3.0, 3e17]
        assert here.first([here.rank + 5.0]) == [5.0]
        assert here.from_first("name", lambda: f"made by {here.rank}") == "made by 0"
        assert here.threads == max(1, len(os.sched_getaffinity(0)) // 3)
        here.barrier()


def one_cannot_read(folder: Path) -> None:
    with ranks("cpu", 30) as here:
        here.at(STEP_OF_THE_END)
        if here.rank == 2:
            raise DataError("the file is cut off", where="train-tokens.bin", cure="get it again")
        here.sums([1.0])


def all_fail_alike(folder: Path) -> None:
    with ranks("cpu", 30):
        raise SettingError("the batch is too small", where="training.batch_tokens", cure="a larger one")


def one_is_killed(folder: Path) -> None:
    with ranks("cpu", 30) as here:
        here.at(STEP_OF_THE_END)
        here.barrier()
        if here.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        here.at(STEP_OF_THE_END + 1)
        here.sums([1.0])


def one_hangs(folder: Path) -> None:
    with ranks("cpu", 2) as here:
        here.at(STEP_OF_THE_END + here.rank)
        here.barrier()
        if here.rank == 0:
            time.sleep(5)
            os._exit(0)
        here.sums([1.0])


def the_first_fails_at_the_start(folder: Path) -> None:
    with ranks("cpu", 30) as here:

        def make() -> str:
            raise SettingError("this already exists", where="runs/mine", cure="another name")

        here.from_first("folder", make)


SCENARIOS = {
    "sums": (3, sums),
    "one_cannot_read": (3, one_cannot_read),
    "all_fail_alike": (2, all_fail_alike),
    "one_is_killed": (3, one_is_killed),
    "one_hangs": (2, one_hangs),
    "the_first_fails_at_the_start": (2, the_first_fails_at_the_start),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, __file__, str(folder)], env=environment, check=True, timeout=240)
    ended: Ended = json.loads((folder / "ended.json").read_text())
    return ended


def test_sums_are_the_same_on_all_ranks(ended: Ended) -> None:
    assert ended["sums"] == [[0, ""]] * 3


def test_an_error_of_one_rank_ends_all_and_is_told_once(ended: Ended) -> None:
    *others, (code, told) = ended["one_cannot_read"]
    assert others == [[1, ""]] * 2
    assert code == 1 and "the file is cut off" in told and "rank 2 of 3, train-tokens.bin" in told


def test_an_error_of_all_ranks_is_told_once(ended: Ended) -> None:
    (code, told), other = ended["all_fail_alike"]
    assert code == 2 and other == [2, ""]
    assert "the batch is too small" in told and "rank" not in told


def test_a_killed_rank_is_named_with_its_last_step(ended: Ended) -> None:
    (code, told), killed, other = ended["one_is_killed"]
    assert killed == [-signal.SIGKILL, ""] and other == [1, ""] and code == 1
    assert f"rank 1 (last seen at step {STEP_OF_THE_END})" in told and "--resume" in told
    assert f"rank 0 of 3, at step {STEP_OF_THE_END + 1}" in told


def test_a_rank_that_hangs_is_named_after_the_timeout(ended: Ended) -> None:
    code, told = ended["one_hangs"][1]
    assert code == 1 and f"rank 0 (last seen at step {STEP_OF_THE_END})" in told


def test_what_only_the_first_does_may_fail(ended: Ended) -> None:
    (code, told), other = ended["the_first_fails_at_the_start"]
    assert code == 2 and "this already exists" in told and other == [1, ""]


def test_a_batch_is_dealt_to_neighbours_whatever_the_number_of_ranks() -> None:
    for size in (1, 2, 3, 4, 8):
        shares = [Ranks(rank, size).share(13) for rank in range(size)]
        assert [window for share in shares for window in share] == list(range(13))
        assert {len(share) for share in shares} <= {13 // size, 13 // size + 1}
    with pytest.raises(SettingError, match="8 processes cannot share a batch of 7 windows") as caught:
        Ranks(0, 8).share(7)
    assert "batch_tokens" in caught.value.cure and "7 processes" in caught.value.cure


def test_alone_there_is_no_group_and_nothing_to_wait_for() -> None:
    with ranks("cpu", 1) as here:
        assert (here.rank, here.size, here.is_first, here.threads) == (0, 1, True, None)
        assert here.sums([1.5]) == [1.5] and here.from_first("key", lambda: "value") == "value"
        assert not torch.distributed.is_initialized()


if __name__ == "__main__":
    import forked

    forked.main(SCENARIOS)
