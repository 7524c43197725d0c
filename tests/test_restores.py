"""A server that is put back to a backup: what it had accepted since comes again from whoever wrote it, once."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import NOW_MS, Peer, Peers, triples
from tests.sim.disk import TenantDisk
from tripleweb.change import Change
from tripleweb.storage.replica import MemoryReplica, Replica, ReplicaFile
from tripleweb.sync import restores
from tripleweb.sync.client import ClientLimits
from tripleweb.sync.messages import Poke, Welcome
from tripleweb.sync.records import Kept, LocalCommit, Pending
from tripleweb.sync.server import Limits

WEEK_MS = 7 * 86_400_000


def restore(peers: Peers, backup: TenantDisk, epoch: str) -> None:
    """The server is put back to a backup; everybody comes again."""
    back = [peer for peer in peers.clients if peer.conn is not None]
    peers.disk = copy.deepcopy(backup)
    peers.disk.epoch = epoch
    peers.open()
    for peer in back:
        peer.connect(*peer.core.subscriptions.values(), whole=False)


def count(peer: Peer, by: int) -> str:
    return peer.write(lambda tx: tx.increment("e", "k/n", by))


def counted(peers: Peers) -> int:
    return sum(v for s, p, v in triples(peers.server.store) if p == "k/n")


def accepted(peers: Peers) -> Counter[str]:
    return Counter(entry.id for entry in peers.disk.log)


def test_what_the_backup_had_not_seen_is_pushed_again_as_it_was() -> None:
    """DESIGN: "A client keeps its own accepted transactions … and after a change of epoch pushes again from the
    server's last number." With number, id and stamp, so that it merges as it did."""
    peers = Peers()
    ada, bob = peers.join("ada"), peers.join("bob")
    ada.set("e", "k/a", 1)
    count(ada, 5)
    peers.settle()
    backup = copy.deepcopy(peers.disk)
    lost = {ada.set("e", "k/a", 2): 1, count(ada, 7): 1}
    peers.settle()
    bob.set("e", "k/a", 3)
    peers.settle()
    before = {entry.id: (entry.number, entry.registers[0].stamp) for entry in peers.disk.log}
    waiting = ada.set("e", "k/b", "unsent")
    restore(peers, backup, "e2")
    peers.settle()
    peers.agree()
    assert ("e", "k/a", 3) in ada.triples and ("e", "k/b", "unsent") in bob.triples
    assert counted(peers) == 12
    assert accepted(peers) == Counter([*before, waiting]) and lost.keys() < accepted(peers).keys()
    after = {entry.id: (entry.number, entry.registers[0].stamp) for entry in peers.disk.log}
    assert {tx: after[tx] for tx in before} == before
    assert all(peer.core.state == "online" and peer.core.epoch == "e2" for peer in peers.clients)


def test_what_was_told_once_is_not_told_again() -> None:
    peers = Peers()
    ada = peers.join("ada")
    backup = copy.deepcopy(peers.disk)
    ada.set("e", "k/a", 1)
    peers.settle()
    assert len(ada.disk.load().fates) == 1
    restore(peers, backup, "e2")
    peers.settle()
    assert len(accepted(peers)) == 1 and len(ada.disk.load().fates) == 1
    ada.role = "reader"  # what is refused now was never told
    restore(peers, backup, "e3")
    peers.settle()
    assert [fate.outcome for fate in ada.disk.load().fates] == ["applied", "rejected"]
    peers.agree()
    assert not ada.triples and not ada.disk.load().kept


def test_what_was_rejected_is_not_pushed_again() -> None:
    peers = Peers()
    ada = peers.client("ada", role="reader").connect()
    backup = copy.deepcopy(peers.disk)
    ada.set("e", "k/a", 1)
    peers.settle()
    assert not list(ada.core.kept)
    ada.disconnect()
    ada.role = "writer"
    ada.connect()
    peers.settle()
    ada.set("e", "k/b", 2)
    peers.settle()
    restore(peers, backup, "e2")
    peers.settle()
    peers.agree()
    assert ada.triples == {("e", "k/b", 2)}  # under another identity: a number was missing


def test_it_is_kept_until_a_backup_holds_it() -> None:
    peers = Peers()
    ada = peers.join("ada")
    count(ada, 1)
    peers.settle()
    first = copy.deepcopy(peers.disk)
    count(ada, 10)
    peers.settle()
    second = copy.deepcopy(peers.disk)
    peers.server.backup = (peers.server.epoch, second.seq)
    count(ada, 100)
    peers.settle()
    assert len(list(ada.core.kept)) == 3
    ada.core.ping(ada.now_ms)
    peers.settle()
    assert [one.changes[0].value for one in ada.core.kept] == [100]
    assert [one.number for one in ada.disk.load().kept] == [3]
    restore(peers, second, "e2")
    peers.settle()
    assert counted(peers) == 111
    restore(peers, first, "e3")  # an older one: what the second held is lost, and nothing else
    peers.settle()
    peers.agree()
    assert counted(peers) == 101
    count(ada, 1_000)
    peers.settle()
    assert counted(peers) == 1_101


def test_an_app_that_was_deleted_is_not_brought_back() -> None:
    """What has its name now began another time."""
    peers = Peers()
    ada, bob = peers.join("ada"), peers.join("bob")
    ada.set("e", "k/a", 1)
    peers.settle()
    restore(peers, TenantDisk("e2"), "e2")
    waiting = bob.set("f", "k/a", "unsent")
    peers.settle()
    peers.agree()
    assert accepted(peers) == Counter([waiting]) and ada.triples == {("f", "k/a", "unsent")}
    assert not ada.core.kept and not ada.disk.load().kept


def test_what_a_backup_of_another_epoch_holds_is_kept() -> None:
    peers = Peers()
    ada = peers.join("ada")
    count(ada, 1)
    peers.settle()
    peers.server.backup = ("e0", 99)
    ada.core.ping(ada.now_ms)
    peers.settle()
    assert len(list(ada.core.kept)) == 1


def test_what_a_restored_server_knows_belongs_to_its_epoch() -> None:
    """… so that its next backup lets go of it, and a second restore of the first backup does not."""
    peers = Peers()
    ada = peers.join("ada")
    count(ada, 1)
    peers.settle()
    backup = copy.deepcopy(peers.disk)
    restore(peers, backup, "e2")
    peers.settle()
    assert [(one.epoch, one.seq) for one in ada.core.kept] == [("e2", 1)]
    assert [(one.epoch, one.seq) for one in ada.disk.load().kept] == [("e2", 1)]
    peers.server.backup = ("e2", 1)
    ada.core.ping(ada.now_ms)
    peers.settle()
    assert not list(ada.core.kept)


def test_it_is_kept_for_a_week_and_within_bounds() -> None:
    peers = Peers()
    ada = peers.client("ada", limits=ClientLimits(kept_max=3)).connect()
    for n in range(5):
        ada.set("e", "k/a", n)
        peers.settle()
    assert [one.changes[0].value for one in ada.core.kept] == [2, 3, 4]
    peers.now_ms += WEEK_MS - 60_000
    ada.set("e", "k/a", 5)
    peers.settle()
    peers.now_ms += 120_000
    ada.core.ping(ada.now_ms)
    peers.settle()
    assert [one.changes[0].value for one in ada.core.kept] == [5]
    assert [one.number for one in ada.disk.load().kept] == [6]
    bob = peers.client("bob", limits=ClientLimits(kept_bytes_max=3_000)).connect()
    for n in range(5):
        bob.set("e", "k/b", str(n) * 1_000)
        peers.settle()
    assert [one.changes[0].value[0] for one in bob.core.kept] == ["3", "4"]  # type: ignore[index]


def test_what_an_earlier_identity_wrote_is_pushed_again_by_the_present_one() -> None:
    """… of which the server may know some."""
    peers = Peers()
    ada = peers.join("ada")
    count(ada, 1)
    peers.settle()
    backup = copy.deepcopy(peers.disk)
    twin = ada.copied("twin").connect()
    peers.settle()
    ada.connect()  # with another identity, since the copy has taken hers
    count(ada, 10)
    count(twin, 100)
    peers.settle()
    assert ada.core.replica != twin.core.replica and counted(peers) == 111
    stamps = {entry.id: entry.registers[0].time for entry in peers.disk.log}
    for disk, epoch in ((backup, "e2"), (TenantDisk(""), "e3"), (backup, "e4")):
        restore(peers, disk, epoch)
        peers.settle()
        peers.agree()
        assert counted(peers) == 111
        assert {entry.id: entry.registers[0].time for entry in peers.disk.log} == stamps
        assert max(accepted(peers).values()) == 1


def test_going_back_to_the_newer_of_two_backups_after_all() -> None:
    """What it holds it knows by the numbers of then, whoever has pushed it again meanwhile under others."""
    peers = Peers(Limits(tail_max=1))
    ada = peers.client("ada", role="reader").connect()
    first = copy.deepcopy(peers.disk)
    ada.set("e", "k/a", 1)  # is rejected: number 1 is missing, so it comes back under another identity
    peers.settle()
    ada.role = "writer"
    ada.disconnect()
    ada.connect()
    peers.settle()
    for n in range(5):
        count(ada, 10**n)
        peers.settle()
    second, before = copy.deepcopy(peers.disk), ada.core.replica
    for disk, epoch in ((first, "e2"), (second, "e3"), (first, "e4"), (second, "e5")):
        restore(peers, disk, epoch)
        peers.settle()
        peers.agree()
        assert counted(peers) == 11_111 and ada.core.replica != before
        assert max(accepted(peers).values()) == 1


def test_going_to_the_newer_backup_while_the_older_is_told_what_it_lacks() -> None:
    """What waits to be pushed again has a number that the newer one knows: it is not pushed by another name."""
    peers = Peers(Limits(tail_max=1))
    ada = peers.client("ada", limits=ClientLimits(in_flight_max=1)).connect()
    peers.settle()
    older = copy.deepcopy(peers.disk)
    for n in range(4):
        count(ada, 10**n)
        peers.settle()
    ada.core.ping(ada.now_ms)  # and confirms what it was told
    peers.settle()
    newer = copy.deepcopy(peers.disk)
    for times in (1, 2):
        restore(peers, older, f"older {times}")
        for _ in range(20):
            if not peers.disk.log:
                ada.up(), peers.commit(), peers.down()
        assert len(peers.disk.log) == 1 and ada.core.pending > 2
        unsent = count(ada, 10_000 * times)
        restore(peers, newer, f"newer {times}")
        peers.settle()
        peers.agree()
        assert counted(peers) == 1_111 + sum(10_000 * n for n in range(1, times + 1))
        assert max(accepted(peers).values()) == 1 and unsent in accepted(peers)


def test_a_replica_that_was_put_back_itself_goes_by_the_rules_it_had() -> None:
    peers = Peers()
    ada = peers.join("ada")
    count(ada, 1)
    peers.settle()
    backup, file = copy.deepcopy(peers.disk), ada.disk.copied()
    count(ada, 10)
    peers.settle()
    ada.disconnect()
    ada.disk = file  # its file is copied back: the increment of 10 only the server knows
    ada.start()
    ada.connect()
    peers.settle()
    assert counted(peers) == 11
    count(ada, 100)
    peers.settle()
    restore(peers, backup, "e2")
    peers.settle()
    peers.agree()
    assert counted(peers) == 101  # nobody holds the 10 any more


def test_it_survives_crashes_between_the_welcome_and_the_load() -> None:
    peers = Peers()
    ada = peers.join("ada")
    backup = copy.deepcopy(peers.disk)
    count(ada, 1)
    ada.set("e", "k/a", 1)
    peers.settle()
    restore(peers, backup, "e2")
    while not ada.of(Welcome) or ada.of(Welcome)[-1].epoch != "e2":
        ada.up()
        peers.commit()
        (_, frame) = peers.server.frames_to_send()[0]
        ada.take(frame)
    assert ada.core.pending == 2
    ada.disconnect()
    ada.start()  # what is to be pushed again stands in its file
    assert ada.core.pending == 2
    ada.connect()
    ada.up()
    ada.up()
    peers.commit()  # accepted, and nobody was told
    ada.disconnect()
    ada.start()
    ada.connect()
    peers.settle()
    peers.agree()
    assert counted(peers) == 1 and max(accepted(peers).values()) == 1
    assert len(ada.disk.load().kept) == 2


def test_who_asks_for_parts_is_loaded_anew_with_what_is_pending_on_top() -> None:
    peers = Peers()
    ada, bob = peers.join("ada"), peers.client("bob").connect(whole=False)
    bob.ask("ages", "[:find ?e ?v :where [?e :k/a ?v]]")
    ada.set("x", "k/a", 1)
    peers.settle()
    backup = copy.deepcopy(peers.disk)
    ada.set("x", "k/a", 2)
    bob.write(lambda tx: (tx.set("y", "k/a", 3), tx.set("z", "k/b", 4), tx.increment("z", "k/n", 5)))  # type: ignore[arg-type, func-returns-value]
    peers.settle()
    ada.disconnect()
    bob.set("w", "k/a", 6)
    bob.write(lambda tx: tx.increment("z", "k/n", 50))
    restore(peers, backup, "e2")
    peers.settle()
    held = {("x", "k/a", 1), ("y", "k/a", 3), ("w", "k/a", 6), ("z", "k/b", 4), ("z", "k/n", 55)}
    assert triples(peers.server.store) == held and bob.triples == held
    ada.connect()
    peers.settle()
    peers.agree()
    assert ("x", "k/a", 2) in bob.triples and len(bob.triples) == 5


def test_an_older_file_put_in_place_without_a_new_epoch() -> None:
    """By hand, that is. The server cannot know; clients that stand beyond it load again, and push again."""
    peers = Peers()
    ada, bob = peers.join("ada"), peers.join("bob")
    backup = copy.deepcopy(peers.disk)
    count(ada, 1)
    bob.set("e", "k/b", 1)
    peers.settle()
    restore(peers, backup, backup.epoch)
    peers.settle()
    peers.agree()
    assert counted(peers) == 1 and ("e", "k/b", 1) in ada.triples


def test_an_older_file_that_others_have_written_to_since() -> None:
    """Who was away meanwhile stands where another transaction stands by now: by the number alone it would be there."""
    peers = Peers()
    ada, bob, cy = peers.join("ada"), peers.join("bob"), peers.join("cy")
    bob.set("e", "k/old", 0)
    peers.settle()
    backup = copy.deepcopy(peers.disk)
    for number in range(3):
        ada.set("e", f"k/{number}", number)
        peers.settle()
    stood = cy.core.at
    for peer in (ada, cy):
        peer.disconnect()
    restore(peers, backup, backup.epoch)
    if ada.conn is not None:
        ada.disconnect()
    if cy.conn is not None:
        cy.disconnect()
    for number in range(3):
        peers.now_ms += 1_000
        bob.set("e", f"k/b{number}", number)
        peers.settle()
    assert peers.server.seq == stood
    cy.connect()
    peers.settle()
    peers.agree(bob, cy)
    ada.connect()
    peers.settle()
    peers.agree()
    assert len(cy.triples) == 7


@pytest.fixture(params=["memory", "file"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replica]:
    held: Replica = MemoryReplica() if request.param == "memory" else ReplicaFile(tmp_path / "r.replica")
    yield held
    held.close()


def test_a_file_keeps_what_is_kept(replica: Replica) -> None:
    change = Change("ada", "k/a", "", 1, 7, "a")
    replica.save(LocalCommit(pending=[Pending(n, f"t{n}", 7, [change]) for n in (1, 2)]))
    kept = Kept("a", 1, "t1", 7, [change], "e1", 5, NOW_MS)
    restamped = Kept("a", 2, "t2", 8, [change._replace(time=8)], "e1", 6, NOW_MS)
    replica.save(LocalCommit(decided=[1, 2], kept=[kept, restamped]))
    assert sorted(replica.load().kept, key=lambda one: one.number) == [kept, restamped]
    moved = Kept("b", 1, "t1", 7, [change._replace(replica="b")], "e1", 5, NOW_MS)
    told = Kept("a", 2, "t2", 8, [change._replace(time=8)], "e2", 6, NOW_MS + 1, [("c", 3)])
    replica.save(LocalCommit(released=[("a", 1)], kept=[moved, told]))
    assert sorted(replica.load().kept, key=lambda one: one.number) == [moved, told]
    replica.save(LocalCommit(released=[("b", 1), ("c", 9)]))
    assert replica.load().kept == [told]


@pytest.mark.parametrize("seed", range(25))
def test_nothing_that_its_writer_holds_is_lost_and_nothing_is_doubled(seed: int) -> None:
    """Writes, backups, restores of any of them, crashes of both sides, copies: in the end, all that was written by
    those who are still here, once."""
    rng = random.Random(seed)
    peers = Peers(Limits(tail_max=1_000))
    ada, bob, eve = (peers.join(name) for name in ("ada", "bob", "eve"))
    backups = [copy.deepcopy(peers.disk)]
    sums, values, epochs = 0, dict[tuple[str, str], tuple[int, int]](), 1
    people = [ada, bob, eve]
    for n in range(60):
        peers.now_ms += rng.randint(1, 5)  # no two stamps have one time
        who = rng.choice(people)
        deed = rng.choice(
            ["count", "set", "settle", "settle", "step", "backup", "restore", "crash", "away", "copy"]
        )
        if deed == "count":
            count(who, n)
            sums += n
        elif deed == "set":
            who.set(rng.choice("xyz"), "k/a", n)
            key = who.core.outbox[who.core.next - 1].changes[0]
            place = key.subject, key.predicate
            values[place] = max(values.get(place, (0, 0)), (key.time, n))
        elif deed == "settle":
            peers.settle()
        elif deed == "step":
            who.up()
            rng.choice([peers.commit, peers.down, lambda: None])()  # type: ignore[operator, list-item]
        elif deed == "backup":
            backups.append(copy.deepcopy(peers.disk))
        elif deed == "restore" and rng.random() < 0.7:
            epochs += 1
            restore(peers, rng.choice(backups), f"e{epochs}")
        elif deed == "crash":
            who.disconnect()
            who.start()
            who.connect()
        elif deed == "away":
            who.disconnect(seen_by_server=rng.random() < 0.5)
            who.connect()
        elif deed == "copy" and len(people) < 5:
            for come in (who, None, who):  # they part before either writes (see the head of `sync.restores`)
                twin = come or who.copied(f"{who.name}{n}")
                if twin.conn is None:
                    twin.connect()
                peers.settle()
            people.append(peers.clients[-1])
    peers.settle()
    for _ in range(2):  # whoever was expelled as a copy comes again
        for who in people:
            if who.conn is None:
                who.connect()
        peers.settle()
    peers.agree()
    said = f"seed {seed}"
    assert counted(peers) == sums, said
    assert max(accepted(peers).values(), default=0) <= 1, said
    shown = {(s, p): v for s, p, v in triples(peers.server.store) if p == "k/a"}
    assert shown == {key: n for key, (_, n) in values.items()}, said
    assert {entry.epoch for who in people for entry in who.of(Poke)[-1:]} == {f"e{epochs}"}, said


def test_what_is_numbered_anew_keeps_the_order_in_which_it_was_written() -> None:
    """Also where the server had set a stamp forward, beyond those of what was written later."""
    first, later, other = (
        Pending(n, tx, time, []) for n, tx, time in ((1, "x", 9), (2, "y", 5), (1, "z", 7))
    )
    in_order = restores._in_order([("a", later), ("a", first), ("b", other)])
    assert [one.id for one in in_order] == ["z", "x", "y"]
