"""The interface as it runs: what it says itself."""

from __future__ import annotations

from collections.abc import Iterator

from rns_ble.cli import reticulum_config
from rns_ble.cli.doctor.case import Case
from rns_ble.cli.doctor.finding import Finding, failed, ok, skipped


def check_interface(case: Case) -> Iterator[Finding]:
    """Is it up?"""
    running = case.running
    for interface in running.interfaces:
        what = f"{interface['name']} (process {interface['pid']})"
        if interface["online"]:
            peers = len((interface["mesh"] or {}).get("peers", ()))
            yield ok("interface", f"{what} is online, with {peers} peer{'' if peers == 1 else 's'}")
        else:
            yield failed(
                "interface",
                f"{what} is offline: {interface['offline_reason']}",
                "it tries again by itself, once what is marked above is mended",
            )
    for error in running.errors:
        yield skipped("interface", error)
    names = {interface["name"] for interface in running.interfaces}
    own = (name for name, section in case.own_sections.items() if reticulum_config.is_enabled(section))
    for name in (*case.interfaces, *own):
        if name in names or running.errors:
            continue
        if case.owner is None:
            yield skipped("interface", f"{name} is not up: no program runs Reticulum here")
        else:
            yield failed(
                "interface",
                f"{name} is not up in {case.owner}",
                f"restart {case.owner.name}; what it logs at its start says why, if it fails again",
            )
