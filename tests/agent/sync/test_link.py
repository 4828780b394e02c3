"""The link between a primary and its standby, over real sockets on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_agent.sync.blocks import LARGEST_FILE, MOST_BLOCKS
from spot_agent.sync.channel import Channel, dial
from spot_agent.sync.errors import (
    GenerationRefused,
    GenerationUnsound,
    ImageDamaged,
    LinkDown,
    PeerNotTrusted,
    ProtocolViolated,
    VersionNotSpoken,
)
from spot_agent.sync.frames import Blocks, Frame, Run, agree_version, decode_blocks, encode_blocks, unpack
from spot_agent.sync.generations import Generation, GenerationStore
from spot_agent.sync.identity import Identity
from spot_agent.sync.link import LeaseAsk, LeaseReply, Peer, PrimaryLink, StandbyListener
from spot_agent.sync.manifest import Entry, HashForm, Key, Kind, Listed, Manifest, Reader, encode_key, encode_listed
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.source import GenerationSource
from tests.agent.sync.trees import a_folder, picture


@dataclass
class Standby:
    """A listening standby, and what it was told."""

    folder: Path
    primary: Identity
    identity: Identity = field(init=False)
    committed: list[Generation] = field(default_factory=list)
    confirmed: list[tuple[Generation, float]] = field(default_factory=list)
    link_changes: list[bool] = field(default_factory=list)
    pinned: str | None = None
    silence_seconds: float = 5.0
    most_list_bytes: int | None = None

    def __post_init__(self) -> None:
        self.identity = Identity.load_or_create(self.folder / "standby", name="standby")
        self.pinned = self.primary.certificate
        self.image = self.folder / "there"
        self.store = GenerationStore.open(
            self.folder / "store", WatchedPaths.of([self.image]), most_list_bytes=self.most_list_bytes
        )
        self.listener = StandbyListener(
            address="127.0.0.1",
            port=0,
            identity=self.identity,
            peer_certificate=lambda: self.pinned,
            store=self.store,
            on_lease_ask=lambda ask: LeaseReply(ask.request_id, granted=True, reason="", generation=ask.generation),
            on_committed=self.committed.append,
            on_link=self.link_changes.append,
            on_confirmed=lambda generation, moment: self.confirmed.append((generation, moment)),
            silence_seconds=self.silence_seconds,
        )
        self.port = self.listener.start()

    @property
    def peer(self) -> Peer:
        return Peer("127.0.0.1", self.port, self.identity.certificate)

    def raw(self, *, channel: str = "data") -> Channel:
        """A greeted channel, to send on it what no `PrimaryLink` would."""
        control = self._greeted("control", "session")
        self._control = control
        return control if channel == "control" else self._greeted("data", "session")

    def _greeted(self, channel: str, session: str) -> Channel:
        opened = dial(
            "127.0.0.1",
            self.port,
            identity=self.primary,
            certificate=self.identity.certificate,
            timeout_seconds=5,
        )
        hello = {"type": "hello", "speaks": [1], "session": session, "channel": channel, "agent_id": "a"}
        opened.send(Frame({**hello, "replica_id": "r", "epoch": 1}), deadline=soon())
        assert opened.receive(deadline=soon()).kind == "welcome"
        return opened


@dataclass
class Primary:
    """A primary with a tree, and the link to a standby."""

    folder: Path
    identity: Identity
    number: int = 0

    def __post_init__(self) -> None:
        self.tree = self.folder / "here"
        self.tree.mkdir()
        self.source = GenerationSource(WatchedPaths.of([self.tree]))
        self.link_changes: list[bool] = []

    def connect(self, peer: Peer, **more: Any) -> PrimaryLink:
        given = {
            "identity": self.identity,
            "agent_id": "agent",
            "replica_id": "replica",
            "epoch": 1,
            "on_link": self.link_changes.append,
            "recall": self.source.recall,
        }
        return PrimaryLink.connect(peer, **{**given, **more})

    def ship(self, link: PrimaryLink, *, timeout_seconds: float = 20, **more: Any) -> None:
        self.number += 1
        generation = self.source.take(self.number, **{"epoch": 1, "held": link.held, **more})
        link.ship(generation, timeout_seconds=timeout_seconds)


@pytest.fixture
def folder() -> Iterator[Path]:
    with a_folder() as made:
        yield made


@pytest.fixture
def primary(folder: Path) -> Primary:
    return Primary(folder, Identity.load_or_create(folder / "primary", name="primary"))


@pytest.fixture
def standby(folder: Path, primary: Primary) -> Iterator[Standby]:
    made = Standby(folder, primary.identity)
    yield made
    made.listener.stop()


@pytest.fixture
def link(primary: Primary, standby: Standby) -> Iterator[PrimaryLink]:
    made = primary.connect(standby.peer)
    yield made
    made.close()


def soon() -> float:
    return time.monotonic() + 5


def eventually(condition: Callable[[], object], *, within: float = 5) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.005)


# --- carrying --------------------------------------------------------------------------------------------------------


def test_generations_arrive_and_are_acknowledged(primary: Primary, standby: Standby, link: PrimaryLink) -> None:
    (primary.tree / "file").write_bytes(os.urandom(3 << 20))
    primary.ship(link, extra={"configuration": {"sync_interval": 1}})
    (primary.tree / "file").write_bytes(b"small")
    primary.ship(link)
    standby.store.settle(timeout_seconds=5)

    assert picture(standby.image) == picture(primary.tree)
    eventually(lambda: [generation.number for generation in standby.committed] == [1, 2])
    assert standby.committed[0].extra == {"configuration": {"sync_interval": 1}}
    assert link.held == standby.store.manifest()
    progress = link.progress
    assert progress is not None
    assert progress.percent == 100


def test_the_last_generation_of_a_handover_is_in_place_when_the_standby_hears_of_it(
    primary: Primary, folder: Path
) -> None:
    seen = []
    told = WhenAdded(lambda generation: seen.append((generation.final_for, picture(folder / "there"))))
    standby = Standby(folder, primary.identity, committed=told)
    link = primary.connect(standby.peer)
    try:
        (primary.tree / "file").write_bytes(b"the last write")
        primary.ship(link, final_for="handover-7")
        eventually(lambda: seen)
        assert seen == [("handover-7", picture(primary.tree))]
    finally:
        link.close()
        standby.listener.stop()


class WhenAdded(list[Generation]):
    def __init__(self, told: Callable[[Generation], None]) -> None:
        self._told = told

    def append(self, generation: Generation) -> None:
        self._told(generation)


def test_a_new_link_goes_on_where_the_old_one_stopped(primary: Primary, standby: Standby) -> None:
    (primary.tree / "file").write_bytes(os.urandom(2 << 20))
    link = primary.connect(standby.peer)
    primary.ship(link)
    link.close()

    # A restarted primary knows nothing, and learns from the standby what that holds.
    primary.source = GenerationSource(WatchedPaths.of([primary.tree]))
    link = primary.connect(standby.peer)
    assert link.held == standby.store.manifest()
    primary.ship(link)
    progress = link.progress
    assert progress is not None
    assert progress.wire_bytes < 1000
    link.close()


class LongManifest(Manifest):
    """One that takes its time to be told: a frame a file."""

    def items(self) -> Iterable[tuple[Key, Entry]]:
        for item in super().items():
            time.sleep(0.3)
            yield item


def test_a_standby_that_has_much_to_say_of_what_it_holds_is_heard_to_the_end(primary: Primary, folder: Path) -> None:
    standby = Standby(folder, primary.identity, silence_seconds=1)
    blocks = 1 << 16
    held = LongManifest(
        {
            Key(0, b"%d" % number): Entry(Kind.FILE, 0o644, 0, 0, 0, blocks * 4096, 4096, os.urandom(16 * blocks))
            for number in range(6)
        }
    )
    standby.store._manifest = held
    link = primary.connect(standby.peer, timeout_seconds=1, silence_seconds=1)
    try:
        assert link.held == Manifest(dict(held.items()))
        assert link.up
        assert primary.link_changes == [True]
    finally:
        link.close()
        standby.listener.stop()
    assert primary.link_changes == [True, False]


def test_a_link_that_is_lost_before_it_is_told_of_is_not_told_of(primary: Primary, folder: Path) -> None:
    standby = Standby(folder, primary.identity)
    standby.store._manifest = LongManifest(
        {Key(0, b"%d" % number): Entry(Kind.FOLDER, 0o755, 0, 0, 0) for number in range(8)}
    )
    timer = threading.Timer(0.3, standby.listener.hang_up)
    timer.start()
    with pytest.raises(LinkDown):
        primary.connect(standby.peer)
    assert not primary.link_changes
    timer.join()
    standby.listener.stop()


def test_a_refused_generation_tells_what_to_build_on(primary: Primary, standby: Standby, link: PrimaryLink) -> None:
    (primary.tree / "file").write_bytes(b"one")
    primary.ship(link)
    wrong = Manifest({})

    with pytest.raises(GenerationRefused) as refused:
        primary.ship(link, held=wrong)
    assert refused.value.reason == "base"
    assert link.held == standby.store.manifest()
    (primary.tree / "file").write_bytes(b"two")
    primary.ship(link)


def test_a_generation_that_is_not_newer_is_refused(primary: Primary, standby: Standby, link: PrimaryLink) -> None:
    primary.ship(link, epoch=3)

    with pytest.raises(GenerationRefused) as refused:
        primary.ship(link, epoch=2)
    assert refused.value.reason == "stale"


def test_a_large_generation_may_be_refused_in_the_middle(primary: Primary, standby: Standby, link: PrimaryLink) -> None:
    primary.ship(link, epoch=3)
    (primary.tree / "file").write_bytes(os.urandom(30 << 20))

    with pytest.raises(GenerationRefused):
        primary.ship(link, epoch=2)
    primary.ship(link, epoch=3)
    eventually(lambda: len(standby.committed) == 2)


def test_what_can_not_be_read_is_unsound(primary: Primary, standby: Standby, link: PrimaryLink) -> None:
    with (primary.tree / "too large").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)

    with pytest.raises(GenerationUnsound, match="too large"):
        primary.ship(link)
    (primary.tree / "too large").unlink()
    primary.ship(link)


class RestlessPaths(WatchedPaths):
    """Watched paths in which a file grows whenever somebody looks."""

    def place(self, key: Key) -> bytes:
        with (self.roots[0] / "file").open("ab") as file:
            file.write(b"more")
        return super().place(key)


def test_an_unsound_generation_leaves_the_link_usable(primary: Primary, standby: Standby, link: PrimaryLink) -> None:
    (primary.tree / "file").write_bytes(os.urandom(2 << 20))
    primary.source = GenerationSource(RestlessPaths((primary.tree,)))

    with pytest.raises(GenerationUnsound):
        primary.ship(link)
    assert standby.store.current() is None
    primary.ship(link, must_settle=False)
    primary.source = GenerationSource(WatchedPaths.of([primary.tree]))
    primary.ship(link)
    standby.store.settle(timeout_seconds=5)
    assert picture(standby.image) == picture(primary.tree)
    eventually(lambda: [generation.settled for generation in standby.committed] == [False, True])


def test_an_image_that_somebody_touched_is_noticed_and_repaired(
    primary: Primary, standby: Standby, link: PrimaryLink
) -> None:
    (primary.tree / "file").write_bytes(b"one")
    primary.ship(link)
    standby.store.settle(timeout_seconds=5)
    (standby.image / "file").write_bytes(b"tampered")
    (primary.tree / "other").write_bytes(b"two")

    with pytest.raises(GenerationRefused) as refused:
        primary.ship(link, final_for="handover")
    assert refused.value.reason == "mismatch"
    assert link.held is None
    assert not standby.committed[1:], "nobody promotes itself on a damaged image"
    primary.ship(link, final_for="handover")
    assert picture(standby.image) == picture(primary.tree)


def test_a_disk_that_takes_nothing_refuses_the_generation_and_keeps_the_last_one(
    primary: Primary, standby: Standby, link: PrimaryLink
) -> None:
    primary.ship(link)
    (standby.folder / "store").rename(standby.folder / "unplugged")

    with pytest.raises(GenerationRefused) as refused:
        primary.ship(link)
    assert refused.value.reason == "storage"
    (standby.folder / "unplugged").rename(standby.folder / "store")
    primary.ship(link)


def test_a_generation_is_confirmed_without_being_sent(primary: Primary, standby: Standby, link: PrimaryLink) -> None:
    primary.ship(link)

    assert link.confirm(1, taken_at=4e9)
    assert standby.listener.confirmed_at == 4e9
    assert [(generation.number, moment) for generation, moment in standby.confirmed] == [(1, 4e9)]


def test_nothing_is_confirmed_before_there_is_a_generation(link: PrimaryLink) -> None:
    assert not link.confirm(1, taken_at=4e9)


def test_another_generation_is_not_confirmed(primary: Primary, standby: Standby, link: PrimaryLink) -> None:
    primary.ship(link)
    assert not link.confirm(2, taken_at=4e9)
    assert not standby.confirmed


def test_the_last_generation_of_a_handover_is_not_confirmed(
    primary: Primary, standby: Standby, link: PrimaryLink
) -> None:
    primary.ship(link, final_for="handover")
    assert not link.confirm(1, taken_at=4e9)
    assert not standby.confirmed


def test_a_damaged_image_is_not_confirmed(primary: Primary, standby: Standby, link: PrimaryLink) -> None:
    (primary.tree / "file").write_bytes(b"content")
    primary.ship(link)
    eventually(lambda: (standby.image / "file").exists())
    (standby.image / "file").write_bytes(b"touched")
    with pytest.raises(ImageDamaged):
        standby.store.verify()

    assert not link.confirm(1, taken_at=4e9)
    assert not standby.confirmed


# --- leases and signs of life ----------------------------------------------------------------------------------------


def an_ask(number: int, *, lag_seconds: float | None = None) -> LeaseAsk:
    return LeaseAsk(request_id=number, replica_id="replica", epoch=1, generation=number, lag_seconds=lag_seconds)


def test_an_ask_says_how_far_behind_the_standby_is_and_the_version_before_need_not(
    standby: Standby, link: PrimaryLink
) -> None:
    asked: list[LeaseAsk] = []

    def note(ask: LeaseAsk) -> LeaseReply:
        asked.append(ask)
        return LeaseReply(ask.request_id, granted=True, reason="", generation=ask.generation)

    standby.listener._on_lease_ask = note
    link.ask_lease(an_ask(1, lag_seconds=0.25), timeout_seconds=5)
    link.ask_lease(an_ask(2), timeout_seconds=5)
    channel = standby.raw(channel="control")
    fields = {"type": "ask", "id": 3, "replica_id": "replica", "epoch": 1, "generation": 3}
    channel.send(Frame(fields), deadline=soon())
    assert channel.receive(deadline=soon()).kind == "reply"
    assert [ask.lag_seconds for ask in asked] == [0.25, None, None]


def test_leases_are_answered_while_a_large_generation_is_under_way(
    primary: Primary, standby: Standby, link: PrimaryLink
) -> None:
    (primary.tree / "large").write_bytes(os.urandom(100 << 20))
    shipping = threading.Thread(target=primary.ship, args=(link,))
    shipping.start()
    waits = []
    number = 0
    while shipping.is_alive():
        number += 1
        asked = time.monotonic()
        assert link.ask_lease(an_ask(number), timeout_seconds=4).generation == number
        waits.append(time.monotonic() - asked)
        time.sleep(0.01)
    shipping.join()

    assert len(waits) > 10
    assert sorted(waits)[len(waits) // 2] < 0.1
    assert max(waits) < 1


def test_a_late_answer_is_not_taken_for_the_next_one(primary: Primary, folder: Path) -> None:
    standby = Standby(folder, primary.identity)
    release = threading.Event()

    def hesitate(ask: LeaseAsk) -> LeaseReply:
        if ask.request_id == 1:
            release.wait(5)
        return LeaseReply(ask.request_id, granted=ask.request_id == 1, reason="", generation=0)

    standby.listener._on_lease_ask = hesitate
    link = primary.connect(standby.peer)
    try:
        with pytest.raises(LinkDown):
            link.ask_lease(an_ask(1), timeout_seconds=0.1)
        release.set()
        assert not link.ask_lease(an_ask(2), timeout_seconds=5).granted
        assert link.up
    finally:
        link.close()
        standby.listener.stop()


def test_both_sides_notice_the_end_of_a_link(primary: Primary, standby: Standby) -> None:
    link = primary.connect(standby.peer)
    eventually(lambda: standby.link_changes == [True])
    link.close()
    eventually(lambda: standby.link_changes == [True, False])
    link = primary.connect(standby.peer)
    standby.listener.stop()
    eventually(lambda: primary.link_changes == [True, False, True, False])

    assert not link.up
    with pytest.raises(LinkDown):
        link.ask_lease(an_ask(1), timeout_seconds=1)
    with pytest.raises(LinkDown):
        primary.ship(link)


def test_a_newer_link_replaces_an_older_one(primary: Primary, standby: Standby) -> None:
    old = primary.connect(standby.peer)
    new = primary.connect(standby.peer)
    eventually(lambda: not old.up)
    primary.ship(new)

    assert standby.link_changes[-1]
    new.close()


def test_a_silent_standby_is_noticed(primary: Primary, folder: Path) -> None:
    standby = Standby(folder, primary.identity)
    stuck = threading.Event()

    def hang(ask: LeaseAsk) -> LeaseReply:
        stuck.wait(10)
        return LeaseReply(ask.request_id, granted=True, reason="", generation=0)

    standby.listener._on_lease_ask = hang
    link = primary.connect(standby.peer, silence_seconds=0.4)
    try:
        with pytest.raises(LinkDown):
            link.ask_lease(an_ask(1), timeout_seconds=0.1)
        eventually(lambda: not link.up, within=2)
    finally:
        stuck.set()
        link.close()
        standby.listener.stop()


def test_an_idle_link_stays_up(primary: Primary, folder: Path) -> None:
    standby = Standby(folder, primary.identity, silence_seconds=0.4)
    link = primary.connect(standby.peer, silence_seconds=0.4)
    time.sleep(1)

    assert link.up
    assert standby.link_changes == [True]
    link.close()
    standby.listener.stop()


def test_a_silent_primary_is_noticed(primary: Primary, folder: Path) -> None:
    standby = Standby(folder, primary.identity, silence_seconds=0.3)
    channel = standby.raw()

    eventually(lambda: standby.link_changes == [True, False], within=3)
    channel.close()
    standby.listener.stop()


def test_closing_wakes_who_ships(primary: Primary, standby: Standby, link: PrimaryLink) -> None:
    (primary.tree / "large").write_bytes(os.urandom(100 << 20))
    ended: list[Exception] = []

    def ship() -> None:
        try:
            primary.ship(link)
        except LinkDown as down:
            ended.append(down)

    shipping = threading.Thread(target=ship)
    shipping.start()
    eventually(lambda: link.progress is not None and link.progress.wire_bytes > 5 << 20)
    link.close()
    shipping.join(5)

    assert ended
    eventually(lambda: not any((standby.folder / "store").glob("incoming")))
    assert standby.store.current() is None
    assert not standby.image.exists()


# --- who is let in ---------------------------------------------------------------------------------------------------


def test_a_primary_with_another_certificate_is_refused(primary: Primary, standby: Standby, folder: Path) -> None:
    stranger = Identity.load_or_create(folder / "stranger", name="primary")

    with pytest.raises(PeerNotTrusted):
        primary.connect(standby.peer, identity=stranger)
    assert standby.link_changes == []


def test_a_standby_with_another_certificate_is_refused(primary: Primary, standby: Standby, folder: Path) -> None:
    stranger = Identity.load_or_create(folder / "stranger", name="standby")

    with pytest.raises(PeerNotTrusted):
        primary.connect(Peer("127.0.0.1", standby.port, stranger.certificate))


def test_nobody_is_let_in_before_the_control_plane_has_named_the_primary(primary: Primary, standby: Standby) -> None:
    standby.pinned = None
    with pytest.raises((PeerNotTrusted, LinkDown)):
        primary.connect(standby.peer)
    standby.pinned = primary.identity.certificate
    primary.connect(standby.peer).close()


def test_a_port_where_nobody_listens_is_a_link_down(primary: Primary, standby: Standby) -> None:
    standby.listener.stop()
    with pytest.raises(LinkDown):
        primary.connect(standby.peer, timeout_seconds=1)


def test_a_standby_that_never_answers_is_a_link_down(primary: Primary, standby: Standby) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        peer = Peer("127.0.0.1", mute.getsockname()[1], standby.identity.certificate)
        with pytest.raises(LinkDown):
            primary.connect(peer, timeout_seconds=0.3)


def test_noise_on_the_port_harms_nobody(primary: Primary, standby: Standby) -> None:
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(500)):
        with socket.create_connection(("127.0.0.1", standby.port)) as connection:
            connection.sendall(noise)
    primary.connect(standby.peer).close()


def test_an_identity_is_kept_and_its_key_is_private(tmp_path: Path) -> None:
    made = Identity.load_or_create(tmp_path / "state", name="i-1")

    assert Identity.load_or_create(tmp_path / "state", name="another name") == made
    assert made.identity_file.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in made.certificate


def test_the_newest_version_that_both_speak_is_chosen() -> None:
    assert agree_version([1, 2, 3], spoken=(3, 2)) == 3
    assert agree_version([1, 2], spoken=(3, 2)) == 2
    with pytest.raises(VersionNotSpoken):
        agree_version([1], spoken=(3, 2))


def test_a_primary_of_an_unknown_version_is_told(primary: Primary, standby: Standby) -> None:
    channel = dial(
        "127.0.0.1",
        standby.port,
        identity=primary.identity,
        certificate=standby.identity.certificate,
        timeout_seconds=5,
    )
    hello = {"type": "hello", "speaks": [99], "session": "s", "channel": "control"}
    channel.send(Frame(hello), deadline=soon())

    assert channel.receive(deadline=soon()).header["reason"] == "version"
    channel.close()


# --- what a hostile primary may try ----------------------------------------------------------------------------------


def begin(**more: Any) -> Frame:
    header = {"type": "begin", "number": 1, "epoch": 1, "final_for": None, "taken_at": 1.0, "base": None, "roots": 1}
    return Frame({**header, "total": 0, **more}, b"{}")


def entries(*listed: Listed) -> Frame:
    return Frame({"type": "entries", "coding": "plain"}, b"".join(encode_listed(each) for each in listed))


def a_chunk(key: Key, content: bytes, *, into: str = "stage") -> Frame:
    blocks = Blocks(key, 4096, (Run(0, len(content), content),))
    return Frame({"type": "chunk", "into": into, "coding": "plain", "done": 0}, encode_blocks([blocks]))


def a_file(path: bytes, *, size: int = 4, **more: Any) -> Listed:
    return Listed(Key(0, path), Entry(Kind.FILE, 0o644, 0, 0, 0, size, 4096), HashForm.DERIVED, **more)


def a_folder_entry(path: bytes) -> Listed:
    return Listed(Key(0, path), Entry(Kind.FOLDER, 0o755, 0, 0, 0))


def a_link_entry(path: bytes, target: bytes) -> Listed:
    return Listed(Key(0, path), Entry(Kind.LINK, 0o777, 0, 0, 0, target=target))


END = Frame({"type": "end", "root": "0" * 64, "settled": True, "done": 0})


@pytest.mark.parametrize(
    "path",
    [
        b"../outside",
        b"/etc/passwd",
        b"a/../../outside",
        b"a//b",
        b"a/",
        b".",
        b"..",
        b"a/./b",
        b"zero\0byte",
        b"x" * 256,
        b"y/" * 2500 + b"y",
        b".spot-optimizer-staging/x",
    ],
)
def test_paths_that_leave_the_watched_path_are_refused(standby: Standby, path: bytes) -> None:
    outside = picture(standby.folder)
    key = Key(0, path)
    for frames in (
        [a_chunk(key, b"evil")],
        [a_chunk(key, b"evil", into="journal")],
        [entries(a_folder_entry(b""), a_file(path))],
        [Frame({"type": "removed", "coding": "plain"}, encode_key(key))],
    ):
        assert refusal_of(standby, [begin(), *frames, END])["reason"] == "malformed"
    assert not standby.image.exists()
    assert {name for name in picture(standby.folder) if b"staging" not in name} == set(outside)


@pytest.mark.parametrize(
    "frames",
    [
        [entries(a_link_entry(b"", b"/etc"))],
        [entries(a_link_entry(b"", b"/etc"), a_file(b"passwd")), a_chunk(Key(0, b"passwd"), b"evil")],
        [entries(a_folder_entry(b""), a_link_entry(b"l", b"/etc"), a_file(b"l/x")), a_chunk(Key(0, b"l/x"), b"evil")],
        [entries(a_folder_entry(b""), a_file(b"x"))],
        [entries(a_folder_entry(b""), a_file(b"x")), a_chunk(Key(0, b"x"), b"evil", into="journal")],
        [entries(a_folder_entry(b""), a_file(b"x", moved_from=Key(0, b"y")))],
        [entries(a_folder_entry(b""), a_folder_entry(b""))],
        [entries(a_folder_entry(b"")._replace(key=Key(1, b"")))],
        [Frame({"type": "entries", "coding": "plain"}, b"\xff" * 40)],
        [Frame({"type": "entries", "coding": "zstd"}, b"\xff" * 40)],
        [Frame({"type": "entries", "coding": "secret"}, b"")],
        [Frame({"type": "removed", "coding": "plain"}, encode_key(Key(0, b"never there")))],
        [Frame({"type": "surprise"})],
        [Frame({"type": "chunk", "into": "/etc", "coding": "plain", "done": 0})],
        [Frame({"type": "chunk", "into": "stage", "coding": "plain", "done": -1})],
    ],
)
def test_a_generation_that_makes_no_sense_is_refused(standby: Standby, frames: list[Frame]) -> None:
    assert refusal_of(standby, [begin(), *frames, END])["reason"] == "malformed"
    assert standby.store.current() is None
    assert not standby.image.exists()


def test_a_generation_that_does_not_add_up_is_refused(standby: Standby) -> None:
    frames = [begin(), a_chunk(Key(0, b"x"), b"good"), entries(a_folder_entry(b""), a_file(b"x")), END]

    assert refusal_of(standby, frames)["reason"] == "mismatch"
    assert standby.store.current() is None


@pytest.mark.parametrize(
    "change",
    [
        {"number": -1},
        {"number": "1"},
        {"epoch": None},
        {"taken_at": "now"},
        {"taken_at": 3e11},
        {"roots": 2},
        {"number": 1 << 62},
    ],
)
def test_an_announcement_that_makes_no_sense_is_refused(standby: Standby, change: Mapping[str, Any]) -> None:
    assert refusal_of(standby, [begin(**change), END])["reason"] == "malformed"


def test_a_few_bytes_do_not_take_all_memory(folder: Path, primary: Primary) -> None:
    """A block far into a file takes room for the hashes of all before it."""
    standby = Standby(folder, primary.identity, most_list_bytes=64 << 20)
    far = [Blocks(Key(0, b"%d" % number), 4096, (Run(MOST_BLOCKS - 1, 1, b"x"),)) for number in range(1000)]
    for into in ("stage", "journal"):
        frame = Frame({"type": "chunk", "into": into, "coding": "plain", "done": 0}, encode_blocks(far))
        tracemalloc.start()
        try:
            assert refusal_of(standby, [begin(), frame, END])["reason"] == "storage"
            assert tracemalloc.get_traced_memory()[1] < 200 << 20
        finally:
            tracemalloc.stop()
    many = [a_folder_entry(b"%d" % number) for number in range(70_000)]
    assert refusal_of(standby, [begin(), entries(a_folder_entry(b""), *many), END])["reason"] == "storage"
    standby.listener.stop()


def test_what_travels_along_is_bounded(standby: Standby) -> None:
    along = json.dumps({"prices": "x" * (1 << 20)}).encode()
    assert refusal_of(standby, [begin()._replace(payload=along), END])["reason"] == "malformed"


def test_who_was_let_in_by_a_certificate_that_is_not_pinned_any_more_is_sent_away(
    primary: Primary, standby: Standby
) -> None:
    link = primary.connect(standby.peer)
    standby.pinned = standby.identity.certificate
    standby.listener.hang_up()
    eventually(lambda: not link.up)
    with pytest.raises(PeerNotTrusted):
        primary.connect(standby.peer)


def test_what_is_no_certificate_is_not_trusted(primary: Primary, standby: Standby) -> None:
    garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(PeerNotTrusted):
        primary.connect(Peer("127.0.0.1", standby.port, garbage))


def test_writing_does_not_follow_a_link_that_was_put_in_the_way(
    primary: Primary, standby: Standby, link: PrimaryLink
) -> None:
    outside = standby.folder / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    (primary.tree / "folder").mkdir()
    (primary.tree / "folder" / "file").write_bytes(b"one")
    primary.ship(link)
    standby.store.settle(timeout_seconds=5)
    (standby.image / "folder").rename(standby.folder / "aside")
    (standby.image / "folder").symlink_to(outside)
    (primary.tree / "folder" / "file").write_bytes(b"two")
    (primary.tree / "folder" / "new").write_bytes(b"new")

    with pytest.raises(GenerationRefused):
        primary.ship(link, final_for="handover")
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_bytes() == b"precious"


def test_a_half_sent_generation_is_never_applied(standby: Standby) -> None:
    for end in ("abort", "hang up"):
        channel = standby.raw()
        for frame in (begin(), a_chunk(Key(0, b"x"), b"half"), entries(a_folder_entry(b""), a_file(b"x"))):
            channel.send(frame, deadline=soon())
        if end == "abort":
            channel.send(Frame({"type": "abort"}), deadline=soon())
            assert channel.receive(deadline=soon()).kind == "dropped"
        channel.close()
        eventually(lambda: not (standby.folder / "store" / "incoming").exists())
        assert standby.store.current() is None
        assert not standby.image.exists()
        eventually(lambda: not list(standby.folder.glob(".spot-optimizer-staging*/*")))


@pytest.mark.parametrize("prefix", [struct.pack("<II", 1 << 30, 0), struct.pack("<II", 20, 1 << 31), b"\0" * 8])
def test_a_frame_that_is_too_large_ends_the_connection(standby: Standby, prefix: bytes) -> None:
    channel = standby.raw()
    channel._connection.send(prefix + b"{}" * 100)

    with pytest.raises(LinkDown):
        channel.receive(deadline=soon())
    eventually(lambda: standby.link_changes == [True, False])


def test_a_bomb_is_not_unpacked() -> None:

    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    with pytest.raises(ProtocolViolated):
        unpack("zstd", bomb)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_never_does_more_than_violate_the_protocol(garbage: bytes) -> None:
    for read in (
        lambda: list(decode_blocks(garbage, roots=1)),
        lambda: Reader(garbage, roots=1).listed(),
        lambda: unpack("zstd", garbage),
    ):
        with contextlib.suppress(ProtocolViolated):
            read()


def refusal_of(standby: Standby, frames: list[Frame]) -> Mapping[str, Any]:
    """Send frames of a generation; answers the header of the refusal. The connection stays usable."""
    channel = standby.raw()
    try:
        for frame in frames:
            channel.send(frame, deadline=soon())
        answer = channel.receive(deadline=soon())
        assert answer.kind == "refused", answer.header
        channel.send(Frame({"type": "describe"}), deadline=soon())
        assert channel.receive(deadline=soon()).kind == "described"
        return answer.header
    finally:
        channel.close()
        standby._control.close()
