"""Sessions for developers: `nox -l` lists them, `nox -s NAME -- ARGUMENTS` hands arguments on to pytest."""

import os
import sys
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13"]

nox.options.sessions = ["lint", "tests", "radio", "system"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
# An interpreter that is not here is no failure, not even on a CI machine: the session is skipped and says so.
nox.options.error_on_missing_interpreters = False

# pyenv keeps interpreters off PATH, or behind shims that refuse versions which are not switched on.
os.environ["PATH"] = os.pathsep.join(
    [
        *(
            str(directory)
            for version in PYTHONS
            for directory in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin"), reverse=True)[:1]
        ),
        os.environ.get("PATH", os.defpath),
    ]
)


def _pytest(session: nox.Session, directory: str, *extras: str) -> None:
    if not list(Path("tests", directory).rglob("test_*.py")):
        session.skip(f"there are no tests in tests/{directory}")
    session.install("-q", "-e", f".[{','.join(('test', *extras))}]")
    session.run("pytest", f"tests/{directory}", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The unit tests: virtual time, no process, no socket."""
    _pytest(session, "unit")


@nox.session
def oldest(session: nox.Session) -> None:
    """The RNS interface with the oldest RNS that it works with, the one that Columba is built on."""
    session.install("-q", "-e", ".", "rns==1.4.2", "hypothesis>=6.150", "pytest>=9", "pytest-trio>=0.8")
    session.run(
        "pytest",
        *("tests/unit/test_config.py", "tests/unit/test_host.py", "tests/unit/test_interface.py"),
        "tests/system/test_interface_in_rns.py",
        *session.posargs,
    )


@nox.session
def radio(session: nox.Session) -> None:
    """Everything below Reticulum over a real GATT stack: Bumble's virtual controllers, in process."""
    _pytest(session, "radio")


@nox.session
def system(session: nox.Session) -> None:
    """Reticulum nodes as processes, in real time."""
    if not sys.platform.startswith("linux"):
        session.skip("the system tests read /proc, which only Linux has")
    _pytest(session, "system")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, mypy --strict and the import contracts."""
    _pytest(session, "lint", "lint")


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark with short settings, as JSON, a line each. For real figures run them alone."""
    session.install("-q", "-e", ".[test]")
    for benchmark in sorted(Path("benchmarks").glob("*.py")):
        session.run("python", str(benchmark), "--json", *(session.posargs or ["--rounds", "3"]))
