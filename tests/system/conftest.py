from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.reticulum import Reticulum


@pytest.fixture
def reticulum(tmp_path: Path) -> Iterator[Reticulum]:
    """A fresh configuration directory; what was started with it is ended."""
    reticulum = Reticulum(tmp_path / "reticulum")
    yield reticulum
    reticulum.close()
