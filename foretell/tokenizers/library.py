"""Failures of the tokenizers library, which is written in Rust."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from foretell.base.errors import DataError, ForetellError


@contextmanager
def library_errors(error: ForetellError) -> Iterator[None]:
    """Turn any failure of the library into an error for the user; its panics are no `Exception`s."""
    try:
        yield
    except BaseException as failure:
        panic = type(failure).__name__ == "PanicException"
        if isinstance(failure, ForetellError) or not (isinstance(failure, Exception) or panic):
            raise
        raise error from failure


def training_errors() -> AbstractContextManager[None]:
    """The same, while a vocabulary is learned."""
    return library_errors(DataError("the tokenizer library failed on this text", where="training", cure="leave out parts of it"))
