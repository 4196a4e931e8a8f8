"""The workflows: GitHub's schema for them, what zizmor finds insecure, and the shell in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

names = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def tool(name: str) -> str:
    path = Path(sysconfig.get_path("scripts"), name)
    if not path.exists():
        pytest.skip(f"{name} is not installed: pip install -e '.[lint]'")
    return str(path)


def parsed(path: Path) -> dict[str, Any]:
    yaml = pytest.importorskip(
        "ruamel.yaml", reason="check-jsonschema is not installed: pip install -e '.[lint]'"
    )
    return dict(yaml.YAML(typ="safe", pure=True).load(path))


def test_they_are_what_github_understands() -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_nothing_in_them_is_known_to_be_insecure() -> None:
    """Permissions, credentials that stay behind, actions that are not pinned, inputs that become code."""
    command = [
        tool("zizmor"),
        "--offline",
        "--config",
        str(ROOT / ".github/zizmor.yml"),
        *map(str, WORKFLOWS),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")}
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@names
def test_each_job_has_a_limit_and_its_own_permissions(path: Path) -> None:
    workflow = parsed(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert job["permissions"], name
        assert "uses" in job or job["timeout-minutes"] <= 120, name


@names
def test_the_shell_in_them_is_shell(path: Path) -> None:
    scripts = [
        step["run"] for job in parsed(path)["jobs"].values() for step in job.get("steps", ()) if "run" in step
    ]
    assert scripts
    for script in scripts:
        outcome = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert outcome.returncode == 0, script + outcome.stderr


def test_the_sessions_that_they_run_exist() -> None:
    sessions = set(re.findall(r"^def ([a-z]\w*)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    used = re.findall(r"nox .*-s (.+)", (ROOT / ".github/workflows/test.yml").read_text())
    assert used
    for word in " ".join(used).split():
        assert word.strip('"').removesuffix("-$PYTHON") in sessions


def test_the_options_that_they_give_exist() -> None:
    text = (ROOT / ".github/workflows/deploy.yml").read_text()
    usage = subprocess.run(
        [sys.executable, "-m", "deploy", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    given = set(re.findall(r"--(?:hosts|known-hosts|dry-run|wheel)\b", text))
    assert given == {"--hosts", "--known-hosts", "--dry-run", "--wheel"}
    assert all(option in usage for option in given)
