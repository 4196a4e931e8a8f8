"""tests/bluez inside the laboratory's guest, with the real bluetoothd of two generations.

Only where RNS_BLE_GUEST is set. The first run builds the laboratory, which takes some minutes; see
docs/bluez-lab.md. How the guests are run is in conftest.py and guests.py.
"""

from __future__ import annotations

import os

import pytest

from tests.guest.conftest import GENERATIONS, IMPOSSIBLE, WANTED, Guests

pytestmark = pytest.mark.skipif(
    WANTED not in os.environ,
    reason="builds and boots a guest with the real BlueZ, 20 minutes the first time: RNS_BLE_GUEST=1 pytest "
    "tests/guest, or nox -s bluez",
)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_tests_of_the_bluez_driver_pass_in_the_guest(generation: str, guests: Guests) -> None:
    if guests.setup.status == IMPOSSIBLE:
        pytest.skip(guests.setup.lines[-1].removeprefix("lab: "))
    if guests.setup.status != 0:
        pytest.fail(f"the laboratory could not be built:\n{guests.setup.text}", pytrace=False)
    if failures := guests.generations[generation].failures:
        pytest.fail(
            "\n".join([f"tests/bluez in the guest with BlueZ {generation}:", *failures]), pytrace=False
        )
    assert guests.generations[generation].counts["passed"] > 0
