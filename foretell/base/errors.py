"""The tree of errors. Each one is three lines for the user: what, where, what to try."""


class ForetellError(Exception):
    """Something the user can mend. what: one sentence. where: file, line, row or setting. cure: what to try."""

    exit_code = 1

    def __init__(self, what: str, *, where: str, cure: str) -> None:
        super().__init__(what)
        self.what, self.where, self.cure = what, where, cure

    def __str__(self) -> str:
        return f"error: {self.what}\nwhere: {self.where}\n  try: {self.cure}"


def first_line(error: BaseException) -> str:
    """What kind of error, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


class SettingError(ForetellError):  # a recipe, a flag or a path on the command line
    exit_code = 2


class DataError(ForetellError): ...  # input files


class CheckpointError(ForetellError): ...  # a run's saved state


class ModelError(ForetellError): ...  # a model directory


class CapacityError(ForetellError):  # it will not fit: needed, there, what to change
    exit_code = 3


class RequestError(ForetellError):  # one request to a model
    exit_code = 2


class Interrupted(ForetellError):  # stopped by the user, after a checkpoint
    exit_code = 130
