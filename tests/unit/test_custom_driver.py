"""The example of a driver of one's own fulfils the contract, and is as short as it says."""

from __future__ import annotations

import ast
import importlib.util
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from rns_ble.drivers.base import BLEDriverInterface
from rns_ble.protocol.gatt import value_limit, write_limit
from rns_ble.testing.driver_suite import DriverSuite

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_driver.py"

pytestmark = pytest.mark.hastened

specification = importlib.util.spec_from_file_location("custom_driver", EXAMPLE)
custom_driver = importlib.util.module_from_spec(specification)
specification.loader.exec_module(custom_driver)


class TestConformance(DriverSuite):
    def limits(self, att_mtu: int) -> tuple[int, int]:
        return write_limit(517), value_limit(517)

    @asynccontextmanager
    async def open_drivers(self, count: int, att_mtu: int = 517) -> AsyncIterator[list[BLEDriverInterface]]:
        # Not pytest's tmp_path, which may be too long for the name of a socket.
        with tempfile.TemporaryDirectory() as directory:
            async with AsyncExitStack() as stack:
                yield [
                    await stack.enter_async_context(
                        custom_driver.SocketDriver(directory, f"02:00:00:00:00:{index:02X}")
                    )
                    for index in range(count)
                ]


def test_it_is_a_hundred_lines_of_code() -> None:
    source = EXAMPLE.read_text()
    texts = (statement for statement in ast.walk(ast.parse(source)) if isinstance(statement, ast.Expr))
    docstrings = {text.lineno for text in texts if isinstance(text.value, ast.Constant)}
    lines = dict(enumerate(source.splitlines(), 1))
    code = [line for n, line in lines.items() if line.strip() and n not in docstrings]
    assert len([line for line in code if not line.startswith(("import ", "from "))]) <= 100
