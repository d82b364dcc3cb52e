"""Golden files of training; `FORETELL_UPDATE_GOLDEN=1` writes them anew."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def golden_losses() -> Path:
    return Path(__file__).with_name("golden_losses.txt")


@pytest.fixture
def update() -> bool:
    return os.environ.get("FORETELL_UPDATE_GOLDEN") == "1"
