"""Foretell: from raw text to a language model that you trained, understand, evaluated and serve.

The public names are fetched when they are first used, so that importing the package imports nothing else.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foretell.api import evaluate, load, pretrain

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load", "pretrain"]


def __getattr__(name: str) -> Any:
    """Fetch a public name from foretell.api (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'foretell' has no attribute {name!r}")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded; see foretell/cli/main.py
    from foretell import api

    return getattr(api, name)
