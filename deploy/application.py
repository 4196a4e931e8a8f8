"""What is sent to a host: `deploy.host`, the wheel and the order, as one zip application for its Python."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Final
from zipfile import ZIP_DEFLATED, ZipFile

from deploy.host.order import ORDER, Order
from deploy.hosts import Host
from deploy.wheel import ROOT, Wheel

SHARED: Final = (
    "rns_ble/__init__.py",
    "rns_ble/cli/__init__.py",
    "rns_ble/cli/errors.py",
    "rns_ble/cli/rnsd_python.py",
)
"""Of the package: how the Python of a script is found, and what that imports. The standard library alone."""

MAIN: Final = "import sys\nfrom deploy.host.main import main\nsys.exit(main())\n"


def application(host: Host, wheel: Wheel, *, dry_run: bool) -> bytes:
    """The application for one host."""
    order = Order(
        wheel=wheel.name,
        version=wheel.version,
        extras=list(host.extras),
        rnsd=host.rnsd,
        config=host.config,
        service=host.service,
        scope=host.scope,
        restart=host.restart,
        wait=host.wait,
        dry_run=dry_run,
    )
    here = Path(__file__).parent
    data = io.BytesIO()
    with ZipFile(data, "w", ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", MAIN)
        archive.write(here / "__init__.py", "deploy/__init__.py")
        for module in sorted((here / "host").glob("*.py")):
            archive.write(module, f"deploy/host/{module.name}")
        for name in SHARED:
            archive.write(ROOT / "src" / name, name)
        archive.writestr(ORDER, json.dumps(asdict(order)))
        archive.writestr(wheel.name, wheel.data)
    return data.getvalue()
