"""The link alone: a peer that writes down what it is told, against sockets that answer as the test wants."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from tripleweb.errors import ProtocolError
from tripleweb.link import Link, Pace
from tripleweb.sync import messages
from tripleweb.sync.messages import Fault, Ping, Pong

QUICK = Pace(first_pause=0.01, longest_pause=0.1, tick=0.05, connect=2, settled=60)


def wait_until(condition: Callable[[], Any], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


class Notes:
    """A peer that keeps what happens to it as words."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.heard: list[str] = []
        self.frames: list[Any] = []
        self.reasons: list[tuple[str, bool]] = []
        self.to_send: list[Any] = []
        self.waits: list[float] = []
        self.threads: set[str] = set()
        self.on_frame: Callable[[Any], None] = lambda frame: None

    def _note(self, word: str) -> None:
        assert self.lock._is_owned()  # type: ignore[attr-defined]
        self.threads.add(threading.current_thread().name)
        self.heard.append(word)

    def link_up(self) -> None:
        self._note("up")

    def link_received(self, frame: Any, waited: float) -> None:
        self._note("frame")
        self.waits.append(waited)
        self.frames.append(frame)
        self.on_frame(frame)

    def link_outgoing(self) -> list[Any]:
        frames, self.to_send = self.to_send, []
        return frames

    def link_tick(self) -> None:
        self._note("tick")

    def link_down(self, reason: str, refused: bool) -> None:
        self._note("down")
        self.reasons.append((reason, refused))


class Answering(WebSocketHandler):
    """Answers each ping with a pong whose time counts the connections so far."""

    def initialize(self, server: Server) -> None:
        self.server = server

    async def prepare(self) -> None:
        self.server.seen.append((self.request.headers.get("Authorization", ""), self.request.uri or ""))
        if self.server.status != 200:
            self.set_status(self.server.status)
            await self.finish("no")
        elif self.server.token not in (None, self.request.headers.get("Authorization")):
            self.set_status(403)
            await self.finish("no")

    def open(self, app: str) -> None:
        self.server.sockets.append(self)

    def on_message(self, message: str | bytes) -> None:
        frame = messages.decode_client(message)
        if isinstance(frame, Ping):
            self.write_message(messages.encode(Pong(len(self.server.sockets), frame.now)))


class Elsewhere(RequestHandler):
    def get(self) -> None:
        self.write("a page")


class Server:
    """A server on a thread, to be stopped and started again on the same port."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.sockets: list[Answering] = []
        self.status = 200
        self.token: str | None = None
        self.port = 0
        self.loop: asyncio.AbstractEventLoop
        self._begun = threading.Event()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        self._begun.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._begun.wait(10)

    async def _serve(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = HTTPServer(
            Application(
                [
                    (r"/api/tripleweb/v1/apps/([^/]+)/sync", Answering, {"server": self}),
                    (r"/elsewhere.*", Elsewhere),
                ]
            )
        )
        sockets = bind_sockets(self.port, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        server.add_sockets(sockets)
        self._begun.set()
        await self._end.wait()
        server.stop()
        for socket in self.sockets:
            socket.close()
            if socket.ws_connection is not None and socket.ws_connection.stream is not None:
                socket.ws_connection.stream.close()
        await server.close_all_connections()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def peer() -> Notes:
    return Notes()


@pytest.fixture
def links() -> Iterator[list[Link]]:
    """Links to be stopped at the end."""
    made: list[Link] = []
    yield made
    for link in made:
        assert link.stop(5)


def test_frames_go_both_ways(server: Server, peer: Notes, links: list[Link]) -> None:
    link = Link(peer, server.url, "secret", "my app", label="Ada's", pace=QUICK)
    links.append(link)
    peer.to_send = [Ping(7)]
    link.start()
    wait_until(lambda: peer.frames)
    assert peer.frames == [Pong(1, 7)]
    peer.to_send = [Ping(8), Ping(9)]
    link.wake()
    wait_until(lambda: len(peer.frames) == 3)
    assert [frame.echo for frame in peer.frames] == [7, 8, 9]
    assert peer.heard[0] == "up" and len(peer.threads) == 1
    # the token goes into a header, never into the address
    assert server.seen == [("tripleweb secret", "/api/tripleweb/v1/apps/my%20app/sync?label=Ada%27s")]


def test_a_token_of_jupyter_is_tried_as_one(server: Server, peer: Notes, links: list[Link]) -> None:
    server.token = "token secret"
    link = Link(peer, server.url, "secret", "a", pace=QUICK)
    links.append(link)
    link.start()
    wait_until(lambda: "up" in peer.heard and server.sockets)
    assert [header for header, _ in server.seen] == ["tripleweb secret", "token secret"]
    server.loop.call_soon_threadsafe(server.sockets[0].close)
    wait_until(lambda: peer.heard.count("up") == 2)
    assert server.seen[-1][0] == "token secret" and len(server.seen) == 3  # it remembers


@pytest.mark.parametrize(("status", "refused"), [(401, True), (403, True), (404, False), (500, False)])
def test_what_an_answer_means(
    server: Server, peer: Notes, links: list[Link], status: int, refused: bool
) -> None:
    server.status = status
    link = Link(peer, server.url, "secret", "a", pace=QUICK)
    links.append(link)
    link.start()
    assert link.connecting or peer.reasons  # the answer may be there already
    wait_until(lambda: peer.reasons)
    reason, said = peer.reasons[0]
    assert said is refused and str(status) in reason and "secret" not in reason and not link.connecting
    server.status = 200  # also a refusal is asked about again
    wait_until(lambda: "up" in peer.heard)


def test_a_server_that_comes_back_on_its_port_is_found(
    server: Server, peer: Notes, links: list[Link]
) -> None:
    link = Link(peer, server.url, None, "a", pace=QUICK)
    links.append(link)
    link.start()
    wait_until(lambda: "up" in peer.heard)
    server.stop()
    wait_until(lambda: len(peer.reasons) >= 3)
    assert not any(refused for _, refused in peer.reasons)
    assert "Connection refused" in peer.reasons[-1][0]
    server.start()
    wait_until(lambda: peer.heard.count("up") == 2)


def test_pauses_grow_and_are_jittered(server: Server, peer: Notes, links: list[Link]) -> None:
    server.status = 500
    link = Link(peer, server.url, None, "a", pace=Pace(first_pause=0.02, longest_pause=0.3))
    links.append(link)
    began = time.monotonic()
    link.start()
    wait_until(lambda: len(server.seen) == 5)
    # after the first attempt: 0.04, 0.08, 0.16, 0.3, each times a half to one
    assert time.monotonic() - began >= 0.29
    seen = len(server.seen)
    link.hurry()
    wait_until(lambda: len(server.seen) > seen, 0.14)


def test_offline_by_choice_ends_the_connection_and_says_nothing(
    server: Server, peer: Notes, links: list[Link]
) -> None:
    link = Link(peer, server.url, None, "a", pace=QUICK)
    links.append(link)
    link.start()
    wait_until(lambda: server.sockets)
    wait_until(lambda: "up" in peer.heard)
    link.go_offline()
    peer.to_send = [Ping(1)]
    link.wake()
    wait_until(lambda: server.sockets[0].ws_connection is None)
    assert "down" not in peer.heard and peer.to_send and not link.connecting
    link.go_online()
    assert link.connecting or peer.heard.count("up") == 2  # where it was quicker than we look
    wait_until(lambda: peer.frames)
    assert peer.frames == [Pong(2, 1)] and peer.heard.count("up") == 2


def test_who_cannot_decide_ends_up_connected(server: Server, peer: Notes, links: list[Link]) -> None:
    """Off and on again, faster than the link's thread can follow."""
    link = Link(peer, server.url, None, "a", pace=QUICK)
    links.append(link)
    link.start()
    for _ in range(10):
        for _ in range(10):
            link.go_offline()
            link.go_online()
        wait_until(lambda: link._socket is not None and link._serving == link._generation)
    assert link._loop is not None
    peer.to_send = [Ping(1)]
    link.wake()
    wait_until(lambda: peer.frames)  # so the peer has heard of the last connection
    link._loop.call_soon_threadsafe(link._cut)  # one that comes late, for what has been replaced since
    heard = peer.heard.count("up")
    peer.to_send = [Ping(2)]
    link.wake()
    wait_until(lambda: len(peer.frames) == 2)
    assert link.wanted and peer.heard.count("up") == heard


def test_what_the_peer_refuses_ends_the_connection(server: Server, peer: Notes, links: list[Link]) -> None:
    def refuse(frame: Any) -> None:
        if len(peer.frames) == 1:
            raise ProtocolError("order", "a gap")
        if len(peer.frames) == 2:
            raise OSError("disk full")

    peer.on_frame = refuse
    peer.to_send = [Ping(1)]
    link = Link(peer, server.url, None, "a", pace=QUICK)
    links.append(link)
    link.start()
    wait_until(lambda: peer.heard.count("up") == 2)
    peer.to_send = [Ping(2)]
    link.wake()
    wait_until(lambda: peer.heard.count("up") == 3)
    assert [reason for reason, _ in peer.reasons] == ["protocol: a gap", "OSError: disk full"]


@pytest.mark.parametrize("nonsense", ["{}", "no json", '{"t":"welcome"}', "[" * 10_000])
def test_nonsense_ends_the_connection(server: Server, peer: Notes, links: list[Link], nonsense: str) -> None:
    link = Link(peer, server.url, None, "a", pace=QUICK)
    links.append(link)
    link.start()
    wait_until(lambda: server.sockets)
    server.loop.call_soon_threadsafe(server.sockets[0].write_message, nonsense)
    wait_until(lambda: peer.heard.count("up") == 2)
    assert peer.reasons[0][0].startswith("protocol: ") and not peer.frames


def test_a_lock_that_is_held_does_not_hold_up_the_loop(
    server: Server, peer: Notes, links: list[Link]
) -> None:
    """Somebody sits in a transaction: the link's loop turns on, and what came is delivered afterwards."""
    link = Link(peer, server.url, None, "a", pace=QUICK)
    links.append(link)
    link.start()
    wait_until(lambda: "up" in peer.heard)
    wait_until(lambda: server.sockets)
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        assert link._loop is not None
        link._loop.call_later(0.001, turn)

    assert link._loop is not None
    with peer.lock:
        heard = len(peer.heard)
        server.loop.call_soon_threadsafe(server.sockets[0].write_message, messages.encode(Pong(1, 1)))
        link._loop.call_soon_threadsafe(turn)
        began = time.monotonic()
        wait_until(lambda: turns > 20 and time.monotonic() - began > 0.2)
        assert len(peer.heard) == heard
    wait_until(lambda: peer.frames)
    assert peer.waits[0] > 0.1  # the peer learns that the frame is not of this moment


def test_the_timer_ticks_on_a_connection(server: Server, peer: Notes, links: list[Link]) -> None:
    link = Link(peer, server.url, None, "a", pace=QUICK)
    links.append(link)
    link.start()
    wait_until(lambda: peer.heard.count("tick") >= 3)
    assert peer.heard[0] == "up"


def test_a_server_that_answers_nothing_is_not_there(
    server: Server, peer: Notes, links: list[Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that stands, and nobody behind it: after a while it is given up, and another one is made."""
    monkeypatch.setattr(Answering, "on_message", lambda self, message: None)
    link = Link(peer, server.url, None, "a", pace=Pace(first_pause=0.01, tick=0.02, silence=0.1))
    links.append(link)
    link.start()
    wait_until(lambda: peer.heard.count("up") >= 2)
    assert peer.heard[:7] == ["up", *["tick"] * 5, "down"]
    assert "has not answered for 0.1 seconds" in peer.reasons[0][0] and not link.connecting


def test_who_has_the_lock_for_long_does_not_end_the_connection(
    server: Server, peer: Notes, links: list[Link]
) -> None:
    """Nothing is asked meanwhile, so nothing is answered."""
    link = Link(peer, server.url, None, "a", pace=Pace(tick=0.02, silence=0.1))
    links.append(link)
    link.start()
    wait_until(lambda: peer.heard.count("tick") >= 1)
    with peer.lock:
        heard = peer.heard.count("tick")
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            assert peer.heard.count("tick") == heard
            time.sleep(0.01)
        peer.to_send = [Ping(1)]
    wait_until(lambda: peer.frames)
    assert "down" not in peer.heard


def test_a_server_may_ask_to_be_left_alone_for_a_while(
    server: Server, peer: Notes, links: list[Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float | None] = []
    pause = Link._sleep

    async def noted(link: Link, seconds: float | None) -> None:
        pauses.append(seconds)
        await pause(link, 0 if seconds else seconds)

    monkeypatch.setattr(Link, "_sleep", noted)

    def send_away(self: Answering, message: str | bytes) -> None:
        if len(self.server.sockets) < 3:
            self.write_message(messages.encode(Fault("closing", "later", 7_000 * len(self.server.sockets))))
            self.close(1001)

    monkeypatch.setattr(Answering, "on_message", send_away)
    peer.link_outgoing = lambda: [Ping(1)] if peer.heard[-1] == "up" else []  # type: ignore[method-assign]
    link = Link(peer, server.url, None, "a", pace=Pace(first_pause=0.01, longest_pause=10))
    links.append(link)
    link.start()
    wait_until(lambda: peer.heard.count("up") == 3)
    assert pauses[:2] == [7.0, 10]  # not longer than its own longest


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/", "elsewhere"])
def test_stop_is_quick_whatever_is_going_on(server: Server, peer: Notes, address: str) -> None:
    link = Link(
        peer, server.url + "elsewhere/" if address == "elsewhere" else address, None, "a", pace=Pace()
    )
    link.start()
    wait_until(lambda: peer.reasons)
    began = time.monotonic()
    assert link.stop(5) and time.monotonic() - began < 1
    heard = len(peer.heard)
    link.wake()
    link.go_online()
    assert link.stop() and len(peer.heard) == heard


def test_stop_while_connecting(peer: Notes) -> None:
    """Somebody listens but never answers."""
    sockets = bind_sockets(0, "127.0.0.1")
    try:
        link = Link(peer, f"http://127.0.0.1:{sockets[0].getsockname()[1]}/", None, "a", pace=Pace())
        link.start()
        sockets[0].settimeout(10)
        accepted, _ = sockets[0].accept()
        with accepted:
            began = time.monotonic()
            assert link.stop(5) and time.monotonic() - began < 2
            assert peer.heard == []
            accepted.settimeout(10)
            while accepted.recv(4096):  # the request, then the end
                pass
    finally:
        for socket in sockets:
            socket.close()


@pytest.mark.parametrize("when", ["before the answer", "after it"])
def test_who_gives_up_leaves_no_socket_behind(
    server: Server, peer: Notes, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Stopped while the server makes up its mind, and while a connection that stands waits for the peer's lock."""
    closed: list[Answering] = []
    monkeypatch.setattr(Answering, "on_close", lambda self: closed.append(self))
    asked, link = threading.Event(), Link(peer, server.url, None, "a", pace=Pace())

    async def think(self: Answering) -> None:
        asked.set()
        deadline = time.monotonic() + 10
        while when == "before the answer" and not link._stopping and time.monotonic() < deadline:
            await asyncio.sleep(0.001)

    monkeypatch.setattr(Answering, "prepare", think)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
        del caught[:]  # what others have left behind
        with peer.lock:
            link.start()
            assert asked.wait(10)
            if when == "after it":
                wait_until(lambda: server.sockets)
                wait_until(lambda: link._socket is not None)
            assert link.stop(5)
        wait_until(lambda: closed)
        gc.collect()
    assert [str(warning.message) for warning in caught] == [] and peer.heard == []
