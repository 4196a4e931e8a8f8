"""The radio of examples/custom_driver.py, written to the callback contract: blocking sockets and threads.

It imports what such drivers import, so `install_aliases` has to come before.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

from bluetooth_driver import BLEDevice, BLEDriverInterface, DriverState


class CallbackDriver(BLEDriverInterface):
    directory = ""
    address = ""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.settings = settings
        self.power = None
        self._running = self._scanning = False
        self._identity = b""
        self._door = None
        self._peers = {}  # address → (role, connection)

    def start(self, service_uuid, rx_char_uuid, tx_char_uuid, identity_char_uuid) -> None:
        self._service_uuid = service_uuid
        self._running = True
        threading.Thread(target=self._look_around, daemon=True).start()

    def stop(self) -> None:
        self._running = self._scanning = False
        self.stop_advertising()
        for address in list(self._peers):
            self.disconnect(address)

    def configure_power(self, preset) -> None:
        """As Columba's has it: what it sets up is there only when the driver was started."""
        assert self._running
        self.power = preset

    def set_identity(self, identity_bytes) -> None:
        self._identity = identity_bytes

    @property
    def state(self) -> DriverState:
        return DriverState.SCANNING if self._scanning else DriverState.IDLE

    @property
    def connected_peers(self) -> list[str]:
        return list(self._peers)

    def get_local_address(self) -> str:
        return self.address.lower()

    def get_peer_role(self, address):
        return self._peers[address][0] if address in self._peers else None

    def set_service_discovery_delay(self, seconds) -> None:
        pass

    def set_power_mode(self, mode) -> None:
        pass

    def read_characteristic(self, address, char_uuid) -> bytes:
        return b""

    def write_characteristic(self, address, char_uuid, data) -> None:
        pass

    def start_notify(self, address, char_uuid, callback) -> None:
        pass

    # --- radio ---

    def start_scanning(self) -> None:
        self._scanning = True

    def stop_scanning(self) -> None:
        self._scanning = False

    def _look_around(self) -> None:
        while self._running:
            time.sleep(0.1)
            for path in Path(self.directory).iterdir() if self._scanning else ():
                if not path.name.startswith(self.address):
                    self.on_device_discovered(
                        BLEDevice(path.name[:17].lower(), "Unknown", -60, [self._service_uuid])
                    )

    @property
    def _path(self) -> Path:
        return Path(self.directory, f"{self.address} {self._identity.hex()}")

    def start_advertising(self, device_name, identity) -> None:
        self._door = door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        door.bind(str(self._path))
        door.listen()
        threading.Thread(target=self._welcome, args=(door,), daemon=True).start()

    def stop_advertising(self) -> None:
        if self._door is not None:
            self._path.unlink(missing_ok=True)
            self._door.shutdown(socket.SHUT_RDWR)
            self._door.close()
            self._door = None

    def _welcome(self, door) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, name = door.accept()
                address = "dev:" + name[1:18].decode()
                self._peers[address] = ("peripheral", connection)
                self.on_device_connected(address, None)
                self.on_mtu_negotiated(address, 517)
                threading.Thread(target=self._listen, args=(address, connection), daemon=True).start()

    def connect(self, address) -> None:
        threading.Thread(target=self._connect, args=(address,), daemon=True).start()

    def _connect(self, address) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            [path] = Path(self.directory).glob(f"{address.upper()} *")
            connection.bind(f"\0{self.address} {id(connection)}")
            connection.connect(str(path))
            connection.send(self._identity)
        except (OSError, ValueError) as error:
            connection.close()
            self.on_error("error", f"Connection failed to {address}: {error}", error)
            return
        self._peers[address] = ("central", connection)
        self.on_device_connected(address, bytes.fromhex(path.name[18:]))
        self.on_mtu_negotiated(address, 517)
        self._listen(address, connection)

    def _listen(self, address, connection) -> None:
        with contextlib.suppress(OSError):
            while value := connection.recv(512):
                self.on_data_received(address, value)
        self._peers.pop(address, None)
        connection.close()
        self.on_device_disconnected(address)

    def disconnect(self, address) -> None:
        if address in self._peers:
            with contextlib.suppress(OSError):
                self._peers[address][1].shutdown(socket.SHUT_RDWR)

    def send(self, address, data) -> None:
        self._peers[address][1].send(data)
