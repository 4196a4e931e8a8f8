"""The UUIDs of our service, as BlueZ writes them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Self

from rns_ble.drivers.base import ConfigurationError


@dataclass(frozen=True, slots=True)
class Uuids:
    """Lower case, 128 bits, hyphens."""

    service: str
    rx: str
    tx: str
    identity: str

    @classmethod
    def parse(cls, service: str, rx: str, tx: str, identity: str) -> Self:
        """Raises `ConfigurationError` for what is no UUID."""
        try:
            return cls(*(str(uuid.UUID(text)) for text in (service, rx, tx, identity)))
        except ValueError as error:
            raise ConfigurationError(f"not a UUID: {error}") from None
