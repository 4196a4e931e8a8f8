"""What BlueZ keeps of the devices that its adapters have met."""

from __future__ import annotations

from collections.abc import Collection


async def forget_devices(adapters: Collection[str] | None = None) -> list[str]:
    """Have BlueZ forget all devices of these adapters, and their services; a link to one ends.

    `adapters`: `hci0` and so on; None: all. What BlueZ refuses to forget is returned, a line for each.
    """
    from rns_ble.drivers.asyncio_loop import open_asyncio_loop  # noqa: PLC0415 - as the next ones
    from rns_ble.drivers.bluez.bus import OBJECT_MANAGER, Refused, open_bus  # noqa: PLC0415 - Linux only
    from rns_ble.drivers.bluez.tree import ADAPTER, DEVICE  # noqa: PLC0415

    stay = []
    async with open_asyncio_loop() as loop, open_bus(loop) as bus:
        reply = await bus.call("/", OBJECT_MANAGER, "GetManagedObjects")
        for path, interfaces in reply.body[0].items():
            if DEVICE not in interfaces:
                continue
            adapter = interfaces[DEVICE]["Adapter"].value
            if adapters is not None and adapter.rpartition("/")[2] not in adapters:
                continue
            try:
                await bus.call(adapter, ADAPTER, "RemoveDevice", "o", path)
            except Refused as error:
                stay.append(f"{path} stays: {error}")
    return stay
