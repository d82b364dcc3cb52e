"""Several ranks out of one process, for tests of what ranks do together: torch is imported once, each scenario forks its ranks.

A test file lists SCENARIOS (name → ranks, function) and calls `main` when it is run as a script, which a fixture of it does.
"""

import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path

Scenario = tuple[int, Callable[[Path], None]]


def main(scenarios: Mapping[str, Scenario]) -> None:
    """What a test file does as a script: ended.json in the folder that is named says how each rank of each scenario ended.

    As its exit code (negative: a signal) and what it wrote to standard error.
    """
    folder = Path(sys.argv[1])
    results = {name: _forked(folder / name, *scenario) for name, scenario in scenarios.items()}
    (folder / "ended.json").write_text(json.dumps(results))


def _forked(folder: Path, size: int, function: Callable[[Path], None]) -> list[tuple[int, str]]:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        if (child := os.fork()) == 0:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"})
            os._exit(_code(folder, rank, function))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [(code, (folder / f"{rank}.txt").read_text()) for rank, code in enumerate(codes)]


def _code(folder: Path, rank: int, function: Callable[[Path], None]) -> int:
    """What the command line makes of an error."""
    with (folder / f"{rank}.txt").open("w") as stream, redirect_stderr(stream):
        try:
            function(folder)
        except SystemExit as stop:
            return int(stop.code or 0)
        except Exception as error:
            if not hasattr(error, "exit_code"):
                traceback.print_exc()
            print(error, file=stream)
            return int(getattr(error, "exit_code", 99))
    return 0
