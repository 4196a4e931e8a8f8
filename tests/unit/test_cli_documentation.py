"""What the README promises is what the code does."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path

from rns_ble.cli import COMMANDS
from rns_ble.config import KEYS, UNNEEDED, Key

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def row(key: Key) -> str:
    match key.default:
        case None:
            default = "(none)"
        case bool():
            default = "yes" if key.default else "no"
        case int() | float():
            default = f"{key.default:g}"
        case _:
            default = str(key.default)
    return f"| `{key.name}` | {default} | {key.allowed} | {key.doc} |"


def test_the_configuration_table_is_what_the_configuration_says() -> None:
    # The name is the section's own; nobody writes it as a key.
    expected = [row(key) for key in KEYS if key.name != "name"]
    lines = README.splitlines()
    start = lines.index("| key | default | allowed | meaning |") + 2
    assert lines[start : start + len(expected)] == expected


def test_keys_that_are_not_needed_are_named() -> None:
    for name in UNNEEDED:
        assert f"`{name}`" in README


def first_commands() -> list[str]:
    return [line for line in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if ".venv" in line]


def test_the_readmes_first_two_commands_are_one_line_each_and_need_nothing() -> None:
    demo, tests, *_ = first_commands()
    for command in (demo, tests):
        assert command.count("\n") == 1
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert demo.endswith(" && .venv/bin/rns-ble demo\n")
    assert tests.endswith(" && .venv/bin/pytest\n")


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    _, tests, *_ = first_commands()
    assert tests in (ROOT / ".ci" / "run").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_every_extra_that_is_named_exists() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    pages = README + (ROOT / "CONTRIBUTING.md").read_text()
    named = {
        extra
        for group in re.findall(r"(?:\.|rns_ble|rns-ble)\[([a-z,]+)\]", pages)
        for extra in group.split(",")
    }
    assert named
    assert named <= extras


def test_every_command_that_is_named_is_understood() -> None:
    named = set(re.findall(r"`(?:\.venv/bin/)?(rns-ble [^`]+)`", README))
    named |= set(re.findall(r"^ *(?:[\w./]*/)?(rns-ble .+)$", README, re.MULTILINE))
    assert {line.split()[1] for line in named} == set(COMMANDS)
    for line in named:
        _, command, *arguments = shlex.split(line)
        parser = argparse.ArgumentParser()
        import_module(f"rns_ble.cli.{command}").configure(parser)
        parser.parse_args([argument for argument in arguments if argument != "--help"])


def test_help_and_readme_say_the_same_of_the_ether() -> None:
    assert f"`rns-ble ether`: {COMMANDS['ether']}" in " ".join(README.split())


def test_what_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target
