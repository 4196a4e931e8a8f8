"""What a host is told to do, and what it answers: all that both halves know. It travels as JSON.

The other half imports this module alone of `deploy.host`: where that runs, no `rns_ble` has to be installed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

ORDER: Final = "order.json"
"""In the application, beside the wheel."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """All of it but the wheel's bytes; what is what, deploy/hosts.py says."""

    wheel: str
    version: str
    extras: list[str]
    rnsd: str | None
    config: str | None
    service: str
    scope: str | None
    restart: str | None
    wait: float
    dry_run: bool


@dataclass(kw_only=True)
class Result:
    """What has become of this host."""

    state: str
    """`deployed`; `planned`, by a dry run; `refused`, nothing was changed; `rolled back`, the old version is
    up again; `failed`, somebody has to look."""
    reason: str | None = None
    """Why it is not `deployed`."""
    before: str | None = None
    """The version that was installed."""
    after: str | None = None
    """The version that is, or would be, installed."""
    environment: str | None = None
    """The Python of rnsd."""
    packages: dict[str, list[str | None]] = field(default_factory=dict)
    """All that pip installs for it, this package among it: the version before, if any, and the new one."""
    interfaces: list[str] = field(default_factory=list)
    """Those that are online now."""
