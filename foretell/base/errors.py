"""The tree of errors. Each one is three lines for the user: what, where, what to try.

ForetellError            exit code 1
├── SettingError         2  a recipe, a flag or a path on the command line
├── DataError            1  input files
├── CheckpointError      1  a run's saved state
├── ModelError           1  a model directory
├── CapacityError        3  it will not fit: needed, there, what to change
├── RequestError         2  one request to a model
└── Interrupted        130  stopped by the user, after a checkpoint
"""


class ForetellError(Exception):
    """Something the user can understand and mend.

    what: the problem in one sentence. where: file, line, row or setting. cure: what to try.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str, cure: str) -> None:
        super().__init__(what)
        self.what, self.where, self.cure = what, where, cure

    def __str__(self) -> str:
        return f"error: {self.what}\nwhere: {self.where}\n  try: {self.cure}"


class SettingError(ForetellError):
    exit_code = 2


class DataError(ForetellError):
    exit_code = 1


class CheckpointError(ForetellError):
    exit_code = 1


class ModelError(ForetellError):
    exit_code = 1


class CapacityError(ForetellError):
    exit_code = 3


class RequestError(ForetellError):
    exit_code = 2


class Interrupted(ForetellError):
    exit_code = 130
