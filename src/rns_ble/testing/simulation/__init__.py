"""A mesh of hundreds of nodes in virtual time, the same in each run with the same seed.

Theory of operation. A `World` is an `Air` with places on the ground: who hears whom follows from the
distance. In it stand stations. A `Node` is one of ours and runs the mesh itself, with its ordinary
configuration, on a `SimulatedDriver`; nothing of the mesh is modelled. What the world does to them
(advertisements and connects that are lost, pairs that go out of range and come back, addresses that change)
is drawn from one generator.

The `Checker` looks at a node after every step of one of its tasks, and the first broken rule ends the run.
Attempts and links are counted at the drivers, not by the mesh.
"""

from rns_ble.testing.simulation.invariants import Checker, InvariantViolation
from rns_ble.testing.simulation.node import Node
from rns_ble.testing.simulation.report import Report
from rns_ble.testing.simulation.storm import Storm, storm
from rns_ble.testing.simulation.world import Conditions, SimulatedDriver, World

__all__ = [
    "Checker",
    "Conditions",
    "InvariantViolation",
    "Node",
    "Report",
    "SimulatedDriver",
    "Storm",
    "World",
    "storm",
]
