"""What a host is told to do. The other half writes it, this one reads it, as JSON."""

from __future__ import annotations

from dataclasses import dataclass


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
