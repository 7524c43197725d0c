"""Which replica a session gets: by server, app and user; what was unsent first; never somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tripleweb.errors import StorageError
from tripleweb.storage.replica import ReplicaFile
from tripleweb.storage.shelf import Shelf
from tripleweb.sync.records import LocalCommit, Pending

URL = "http://127.0.0.1:8888/"
ADA = ("server-1", "ada")


def mark(replica: ReplicaFile, *, pending: bool = False, **meta: str) -> str:
    """Saves something into a replica and closes it; returns the file's name."""
    outbox = [Pending(1, "x", 1, [])] if pending else []
    replica.save(LocalCommit(pending=outbox, meta=dict(meta)))
    replica.close()
    return Path(replica.path).name


def test_a_free_file_is_taken_up_again_a_held_one_is_not(tmp_path: Path) -> None:
    """`path=None` picks a replica file of this server, app and user that no running session holds (unsent writes
    first), or a new one."""
    shelf = Shelf(tmp_path)
    one = shelf.adopt(URL, "app", ADA)
    two = shelf.adopt(URL, "app", ADA)
    assert one.path != two.path and Path(one.path).parent == Path(two.path).parent
    unsent = mark(one, pending=True)
    mark(two)
    again = shelf.adopt(URL, "app", ADA)
    assert Path(again.path).name == unsent
    again.close()


@pytest.mark.parametrize("other", [("app", ("server-2", "ada")), ("app", ("server-1", "bob")), ("App", ADA)])
def test_other_servers_users_and_apps_are_apart(tmp_path: Path, other: tuple[str, tuple[str, str]]) -> None:
    shelf = Shelf(tmp_path)
    mark(shelf.adopt(URL, "app", ADA), pending=True)
    app, identity = other
    stranger = shelf.adopt(URL, app, identity)
    assert not stranger.unsent
    stranger.close()


def test_a_server_that_is_down_is_remembered_by_its_address(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    name = mark(shelf.adopt(URL, "app", ADA))
    assert shelf.identity(URL) is None
    shelf.remember(URL, ADA)
    shelf.remember(URL, ADA)
    replica = Shelf(tmp_path).adopt(URL, "app", None)
    assert Path(replica.path).name == name
    replica.close()
    shelf.remember(URL, ("server-2", "ada"))
    assert Shelf(tmp_path).identity(URL) == ("server-2", "ada")


def test_what_was_written_before_the_server_was_ever_reached_is_found(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first, second = shelf.adopt(URL, "app", None), shelf.adopt(URL, "app", None)
    held, unsent = Path(second.path).name, mark(first, pending=True)
    at_home = shelf.adopt(URL, "app", ADA)
    assert Path(at_home.path).name == unsent and at_home.unsent == 1
    at_home.close()
    mark(second)
    taken = [shelf.adopt(URL, "app", ADA) for _ in range(2)]
    assert {Path(replica.path).name for replica in taken} == {held, unsent}
    for replica in taken:
        replica.close()
    assert not list(tmp_path.glob("unknown/**/*.replica*"))


def test_what_another_server_at_the_address_left_is_not_taken(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    mark(shelf.adopt(URL, "app", None), server="server-2", user="ada", pending=True)
    replica = shelf.adopt(URL, "app", ADA)
    assert not replica.unsent
    replica.close()


def test_names_are_safe_whatever_the_server_says(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    for identity in (("../..", ".."), ("", "/etc"), ("a" * 500, "\u202e\x00")):
        replica = shelf.adopt(URL, "app", identity)
        assert Path(replica.path).resolve().is_relative_to((tmp_path / "shelf").resolve())
        replica.close()


def test_a_list_of_servers_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "servers.json").write_text("{")
    with pytest.raises(StorageError, match=r"servers\.json"):
        Shelf(tmp_path).adopt(URL, "app", None)
