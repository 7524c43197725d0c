"""Windows at a hub: who may look no more, or does not read, costs nothing; the loop runs on while rows are sorted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

from tests.pages import Shown
from tests.test_hub import Disk, Page, on_loop, page, until
from tripleweb.hub import Hub
from tripleweb.sync import views
from tripleweb.sync.messages import Fault, Ping, Pong, Subscribe, Subscription
from tripleweb.sync.server import Limits
from tripleweb.sync.views import Scroll, View
from tripleweb.tenant import HubLimits

VALUES = "[:find ?e ?v :where [?e :n/v ?v]]"


async def look(page: Page, view: View, name: str = "w") -> views.Shown:
    """Asks for a window, and hears its first frame."""
    await page.say(Subscribe(Subscription(name, "rows", VALUES, view=view)))
    return await page.hear(views.Shown, lambda frame: frame.id == name)  # type: ignore[no-any-return]


def kept(hub: Hub) -> Any:
    """What an app keeps for windows: (windows, connections that have some)."""
    pages = hub.tenants["app"]._core.readers.pages  # type: ignore[attr-defined]
    return len(pages._viewers), len({id(feed) for feed in pages._viewers.values()})


@on_loop
async def test_who_loses_a_role_loses_the_windows_and_others_keep_theirs() -> None:
    hub = Hub(Disk())
    ada, bob = await page(hub, "ada"), await page(hub, "bob")
    await ada.hear_receipt(await ada.push("a", "b"))
    for someone in (ada, bob):
        assert (await look(someone, View(5))).total == 2
    assert kept(hub) == (2, 2)
    hub.set_roles("app", lambda user: "reader")  # who may read may look
    await ada.say(Ping(1))
    await ada.hear(Pong)
    assert kept(hub) == (2, 2)
    hub.set_roles("app", lambda user: "writer" if user == "ada" else None)
    assert await bob.hear_goodbye() == ("forbidden", 1008)
    await until(lambda: kept(hub) == (1, 1))
    told = len(bob.sent)
    await ada.push("c")
    assert (await ada.hear(views.Shown)).total == 3
    assert len(bob.sent) == told
    await hub.close()


@on_loop
async def test_an_app_that_is_deleted_ends_its_windows() -> None:
    hub = Hub(Disk())
    ada = await page(hub, "ada")
    await ada.hear_receipt(await ada.push("a"))
    await look(ada, View(5))
    await hub.drop("app")
    fault = await ada.hear(Fault)
    assert (fault.code, "deleted" in fault.message) == ("forbidden", True)
    again = await page(hub, "ada", replica="c" * 12)  # the app is made anew, and nothing is in it
    first = await look(again, View(5))
    assert (first.total, first.rows, first.reset) == (0, [], True)
    await hub.close()


@on_loop
async def test_a_slow_reader_of_a_window_is_resynced_not_buffered() -> None:
    limits = HubLimits(unsent_bytes_high=20_000, unsent_bytes_low=5_000)
    hub = Hub(Disk(), limits=limits)
    ada, bob = await page(hub, "ada"), Page(hub, "bob", "b" * 12)
    await bob.join()
    await bob.hello(subscriptions=[])
    view = View(20, order=[("v", "desc")])
    await look(bob, view)
    bob.reads.clear()
    for number in range(300):
        await ada.hear_receipt(await ada.push(f"{number:04}" + "x" * 1_000))
    assert bob.line.paused and bob.line.unsent < 60_000
    bob.reads.set()
    await until(lambda: any(isinstance(f, views.Shown) and f.total == 300 for f in bob.frames))
    frames = [frame for frame in bob.frames if isinstance(frame, views.Shown)]
    assert len(frames) < 60, "what was missed comes at once, not in 300 frames"
    has = Shown()
    for frame in frames:
        has.apply(frame)
    assert [row[1][1][:4] for row in has.rows] == [f"{number:04}" for number in range(299, 279, -1)]
    await hub.close()


@on_loop
async def test_others_are_answered_between_the_slices_of_a_window() -> None:
    """Turns of the loop are counted, not time: each does at most four small steps of the work."""
    limits = HubLimits(slice_s=60, slice_steps_max=4)
    hub = Hub(Disk(), limits=limits, core_limits=Limits(slice_units=500))
    ada = await page(hub, "ada")
    await ada.hear_receipt(await ada.push(*(f"{number * 7919 % 10_000:04}" for number in range(10_000))))
    await look(ada, View(5))
    await ada.say(Scroll("w", View(5, order=[("v", "desc")], turn=1)))
    turns = 0
    while not any(isinstance(frame, views.Shown) and frame.turn == 1 for frame in ada.frames[ada.seen :]):
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 3, f"an order of 10,000 rows took {turns} turns of the loop"
    shown = await ada.hear(views.Shown)
    assert [cells[1][1] for _, cells in shown.rows] == ["9999", "9998", "9997", "9996", "9995"]
    await hub.close()


IMPORTED = """
import asyncio, sys, threading

class Watch:
    beside = []
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            self.beside.append(threading.current_thread() is not threading.main_thread())

sys.meta_path.insert(0, Watch())
from tripleweb.hub import Hub
from tripleweb.storage.memory import MemoryStores
from tripleweb.sync.server import Actor

class Outlet:
    async def write(self, data): pass
    def close(self, code, reason): pass

async def main():
    hub = Hub(MemoryStores())
    assert Watch.beside == [], "not before it is needed"
    await hub.join("app", Actor("ada"), Outlet())
    assert Watch.beside == [True] and "tripleweb.datalog.vectorised.run" in sys.modules, Watch.beside
    await hub.close()

asyncio.run(main())
"""


def test_what_a_query_needs_is_imported_beside_the_loop() -> None:
    """It takes 100 to 200 ms, in which a server's pages would not be answered."""
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
