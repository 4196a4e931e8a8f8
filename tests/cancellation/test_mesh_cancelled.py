"""A mesh that is cancelled at each of its checkpoints, as a whole and in each of its parts."""

from __future__ import annotations

import math

import pytest
import trio

from rns_ble.testing.checkpoints import Strike, scopes_around
from rns_ble.testing.virtual_time import run_in_virtual_time
from tests.cancellation.reached import TAKES_LONG, interrupt
from tests.cancellation.scenes import SCENES, Failures, OnRadio, Scene, is_a_nodes, nothing_left, surrounded
from tests.nodes import running

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("make", SCENES)
def test_a_scene_comes_to_its_aim(make: type[Scene]) -> None:
    async def scenario() -> None:
        scene = make()
        async with surrounded(scene), running(scene.first):
            await scene.play()
            assert scene.came_to_its_aim()

    run_in_virtual_time(scenario)


@pytest.mark.parametrize("make", SCENES)
def test_the_whole_mesh_is_cancelled(make: type[Scene], every: bool) -> None:
    if make is OnRadio and not every:
        pytest.skip(TAKES_LONG)

    async def scenario(strike: Strike) -> None:
        scene = make()
        async with surrounded(scene):
            with strike.cancelling():
                async with running(scene.first):
                    await scene.play()
                    assert strike.struck or scene.came_to_its_aim()
            scene.calm()
            async with running(scene.first):
                await scene.works()

    check = nothing_left()
    interrupt(f"{make.__name__}, whole", scenario, every=every)
    check()


def parts(scene: Scene, task: trio.lowlevel.Task) -> list[trio.CancelScope]:
    """The scopes around a task, innermost first, that the mesh itself cancels: those of a session, an attempt
    and a peer, and whatever has a deadline.
    """
    if not is_a_nodes(task) or scene.first.mesh is None:
        return []
    scopes = set()
    for peer in scene.first.mesh.peers.values():
        if peer._nursery is not None:
            scopes.add(peer._nursery.cancel_scope)
        scopes.update(session.scope for session in peer._sessions.values())
    scopes.update(attempt.scope for attempt in scene.first.mesh.admission._attempts())
    return [scope for scope in scopes_around(task) if scope in scopes or scope.deadline < math.inf]


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("make", SCENES)
def test_a_part_of_the_mesh_is_cancelled(make: type[Scene], level: int, every: bool) -> None:
    if (make in {OnRadio, Failures} or level == 2) and not every:
        pytest.skip(TAKES_LONG)

    async def scenario(strike: Strike) -> None:
        scene = make()
        async with surrounded(scene), running(scene.first):
            with strike.acting(
                lambda task: strike.cancel(parts(scene, task)[level]),
                lambda task: len(parts(scene, task)) > level,
            ):
                await scene.play()
            assert strike.struck or scene.came_to_its_aim()
            await scene.no_link_is_forgotten()
            scene.calm()
            await scene.works()

    check = nothing_left()
    interrupt(f"{make.__name__}, parts of level {level}", scenario, every=every)
    check()
