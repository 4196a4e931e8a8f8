"""For tests of this package and for whoever writes a driver: a driver without a radio, and the suite that
every driver passes.

>>> from rns_ble.testing import Air, MockBLEDriver
>>> air = Air()
>>> one, other = MockBLEDriver(air, "02:00:00:00:00:01"), MockBLEDriver(air, "02:00:00:00:00:02")
"""

from rns_ble.testing.air import Air, MockBLEDriver

__all__ = ["Air", "MockBLEDriver"]
