"""The example of a driver of one's own is as docs/drivers.md shows it, and passes the tests shown there."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "custom_driver.py"
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "drivers.md").read_text(), re.DOTALL)

pytestmark = pytest.mark.hastened

specification = importlib.util.spec_from_file_location("custom_driver", EXAMPLE)
custom_driver = sys.modules["custom_driver"] = importlib.util.module_from_spec(specification)
specification.loader.exec_module(custom_driver)

[suite] = [block for block in BLOCKS if "DriverSuite" in block]
exec(suite)  # it defines TestConformance


def test_the_guide_quotes_the_example() -> None:
    def lines(text: str) -> str:
        return "\n".join(line.strip() for line in text.splitlines() if line.strip())

    quoted = [block for block in BLOCKS if "import " not in block]
    assert len(quoted) == 10
    for block in quoted:
        assert lines(block) in lines(EXAMPLE.read_text())


def test_it_is_a_hundred_lines_of_code() -> None:
    source = EXAMPLE.read_text()
    texts = (statement for statement in ast.walk(ast.parse(source)) if isinstance(statement, ast.Expr))
    docstrings = {text.lineno for text in texts if isinstance(text.value, ast.Constant)}
    lines = dict(enumerate(source.splitlines(), 1))
    code = [line for n, line in lines.items() if line.strip() and n not in docstrings]
    assert len([line for line in code if not line.startswith(("import ", "from "))]) <= 100
