"""`python3 -m deploy`: the command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from deploy import hosts, wheel
from deploy.application import application
from deploy.errors import DeployError
from deploy.session import HostResult, Ssh, deploy_to

AT_ONCE: Final = 8
"""Hosts at a time: each costs this machine an ssh, and its uplink the wheel."""

LIMIT: Final = 1800.0
"""Seconds for one host: a Pi Zero that fetches its packages, and goes back, takes a quarter of an hour."""

INTERRUPTED: Final = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m deploy",
        description="Install one wheel on many hosts over SSH, restart their rnsd, and see that its BLE "
        "interface is up; a host where it does not come up goes back to what it had. Host keys are always "
        "verified.",
    )
    parser.add_argument("name", nargs="*", help="these hosts of the list only (default: all)")
    parser.add_argument(
        "--hosts",
        type=Path,
        required=True,
        metavar="FILE",
        help="the list of hosts, in TOML; deploy/hosts.example.toml is one",
    )
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help="this wheel (default: build one from the checkout)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would change on each host, and change nothing"
    )
    parser.add_argument(
        "--at-once", type=_positive, default=AT_ONCE, metavar="N", help="hosts at a time (%(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=LIMIT, metavar="SECONDS", help="for one host (%(default)g)"
    )
    parser.add_argument(
        "--known-hosts", type=Path, metavar="FILE", help="the hosts' keys, instead of ssh's own files"
    )
    parser.add_argument("--identity", type=Path, metavar="FILE", help="log in with this key only")
    parser.add_argument("--ssh-config", type=Path, metavar="FILE", help="instead of ~/.ssh/config")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    return parser


def _positive(text: str) -> int:
    with suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")


def main(argv: Sequence[str] | None = None) -> int:
    """Deploy. 0: every host has the new version, and it is up; 1: not so; 2: wrong usage; 130: Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        listed = hosts.read(arguments.hosts, tuple(arguments.name))
        with tempfile.TemporaryDirectory() as directory:
            if arguments.wheel is None:
                print("building the wheel", file=sys.stderr)
            loaded = wheel.load(arguments.wheel or wheel.build(Path(directory)))
        ssh = Ssh(
            configuration=arguments.ssh_config, known_hosts=arguments.known_hosts, identity=arguments.identity
        )
        results = asyncio.run(_deploy(listed, loaded, ssh, arguments))
    except DeployError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("deploy: interrupted; hosts that have begun go on by themselves", file=sys.stderr)
        return INTERRUPTED
    ok = all(result.state in {"deployed", "planned"} for result in results)
    if arguments.json:
        summary = {
            "ok": ok,
            "wheel": loaded.name,
            "version": loaded.version,
            "hosts": [asdict(r) for r in results],
        }
        print(json.dumps(summary))
    else:
        _print(results)
    return 0 if ok else 1


async def _deploy(
    listed: list[hosts.Host], loaded: wheel.Wheel, ssh: Ssh, arguments: argparse.Namespace
) -> list[HostResult]:
    """All hosts, so many at a time; their results in the order of the list."""
    places = asyncio.Semaphore(arguments.at_once)
    width = max(len(host.name) for host in listed)
    began = time.monotonic()

    async def one(host: hosts.Host) -> HostResult:
        def show(what: str) -> None:
            print(
                f"{time.monotonic() - began:6.1f} s  {host.name:{width}}  {what}", file=sys.stderr, flush=True
            )

        async with places:
            show(f"connecting to {host.address}")
            data = application(host, loaded, dry_run=arguments.dry_run)
            result = await deploy_to(host, data, ssh, arguments.timeout, show)
            show(": ".join(filter(None, [result.state, result.reason])))
            return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(host)) for host in listed]
    return [task.result() for task in tasks]


def _print(results: list[HostResult]) -> None:
    width = max(len(result.host) for result in results)
    for result in results:
        print(f"{result.host:{width}}  {result.state:11}  {_what(result)}")
        if result.state == "planned":
            for package, (before, after) in sorted(result.packages.items()):
                print(f"{'':{width}}  {'':11}  {package} {before or '(new)'} -> {after}")


def _what(result: HostResult) -> str:
    if result.state == "deployed":
        return f"{result.before or 'nothing'} -> {result.after}; online: {', '.join(result.interfaces)}"
    if result.state == "planned":
        return f"with {result.environment}"
    if result.state == "rolled back":
        return f"{result.after} again; {result.reason}"
    return result.reason or ""


if __name__ == "__main__":
    sys.exit(main())
