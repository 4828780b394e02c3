import json
import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.ledger.errors import ImageDamaged, LedgerMissing
from examples.ledger.image import ImageTaker, restore
from examples.ledger.store import Store
from tests.examples.ledger_rig import Machine, Writers, machines, problems_of, seqs_and_ids


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, 2) as two:
        yield two


def ship(source: Machine, target: Machine) -> None:
    """Carry the image folder over, as the agent does with a generation."""
    shutil.copytree(source.image.parent, target.image.parent, dirs_exist_ok=True)


def test_every_image_taken_under_load_is_sound_and_complete(pair: list[Machine]) -> None:
    machine = pair[0]
    machine.start()
    taker = ImageTaker(str(machine.live / "ledger.db"), str(machine.image))
    pauses = random.Random(7)
    with Writers(machine.port, threads=4) as writers:
        writers.await_more(20)
        for attempt in range(40):
            before = writers.acknowledged_ids
            # Every tenth through the hook, as the agent has it; all others without the cost of a process.
            if attempt % 10 == 0:
                machine.hook("quiesce")
            else:
                taker.take()
            assert problems_of(machine.image) == []
            seqs, ids = seqs_and_ids(machine.image)
            assert before <= ids
            assert seqs == list(range(1, len(seqs) + 1)), "a committed entry is missing in the middle"
            assert list(machine.image.parent.iterdir()) == [machine.image]
            time.sleep(pauses.random() * 0.01)
    assert len(writers.acknowledged) > 100


def test_who_reads_the_image_while_it_is_replaced_reads_a_sound_one(pair: list[Machine]) -> None:
    machine = pair[0]
    machine.start()
    machine.hook("quiesce")
    done = threading.Event()
    found: list[str] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        copy = machine.disk / "copy.db"
        while not done.is_set():
            copy.write_bytes(machine.image.read_bytes())
            found.extend(problems_of(copy))
            reads += 1

    reader = threading.Thread(target=read)
    reader.start()
    taker = ImageTaker(str(machine.live / "ledger.db"), str(machine.image))
    try:
        with Writers(machine.port) as writers:
            for _ in range(25):
                writers.await_more(1)
                assert taker.take().changed
    finally:
        done.set()
        reader.join()
    assert reads > 5
    assert found == []


def test_who_is_halfway_through_an_image_ends_with_the_same_image(tmp_path: Path) -> None:
    image, copy = tmp_path / "image" / "ledger.db", tmp_path / "copy.db"
    store = Store(str(tmp_path / "live" / "ledger.db"))
    taker = ImageTaker(str(tmp_path / "live" / "ledger.db"), str(image))
    for number in range(500):
        store.add(f"early-{number}", number, epoch=1)
    taker.take()
    whole = image.read_bytes()
    with image.open("rb") as reading:
        half = reading.read(len(whole) // 2)
        for number in range(500):
            store.add(f"late-{number}", number, epoch=1)
        assert taker.take().changed
        copy.write_bytes(half + reading.read())
    assert copy.read_bytes() == whole
    assert problems_of(copy) == problems_of(image) == []
    store.close()


def test_an_unchanged_ledger_leaves_its_image_untouched(pair: list[Machine]) -> None:
    machine = pair[0]
    machine.start()
    machine.ask("POST", "/entries", {"id": "a", "amount": 1})
    assert machine.hook("quiesce") == {"changed": True, "entries_up_to": 1}
    before = machine.image.stat()
    assert machine.hook("quiesce") == {"changed": False, "entries_up_to": 1}
    machine.terminate()
    machine.start()
    assert machine.hook("quiesce") == {"changed": False, "entries_up_to": 1}
    machine.terminate()
    assert machine.hook("quiesce") == {"changed": False, "entries_up_to": 1}
    after = machine.image.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    machine.start()
    machine.ask("POST", "/entries", {"id": "b", "amount": 1})
    assert machine.hook("quiesce") == {"changed": True, "entries_up_to": 2}


def test_a_killed_ledger_can_still_be_quiesced(pair: list[Machine]) -> None:
    machine = pair[0]
    machine.start()
    with Writers(machine.port) as writers:
        writers.await_more(30)
        machine.kill()
    machine.hook("quiesce")
    assert problems_of(machine.image) == []
    assert writers.acknowledged_ids <= seqs_and_ids(machine.image)[1]


def test_what_was_acknowledged_before_the_freeze_is_served_after_the_restore(pair: list[Machine]) -> None:
    old, new = pair
    old.start()
    with Writers(old.port) as writers:
        writers.await_more(50)
        machine_image = old.hook("quiesce")
        writers.await_more(50)
        old.hook("freeze")
        final = old.hook("quiesce")
    assert final["changed"]
    assert final["entries_up_to"] > machine_image["entries_up_to"]
    ship(old, new)
    assert new.hook("restore") == {"entries_up_to": final["entries_up_to"]}
    new.start()
    assert writers.acknowledged_ids <= new.entry_ids()
    entry_id = writers.acknowledged[0][0]
    amount = int(entry_id.rpartition("-")[2])
    status, entry, _ = new.ask("POST", "/entries", {"id": entry_id, "amount": amount})
    assert (status, entry["epoch"], entry["serving_epoch"]) == (200, 1, 2)
    assert new.ask("POST", "/entries", {"id": "after", "amount": 1})[1]["epoch"] == 2
    assert new.hook("quiesce")["changed"]


def test_nothing_starts_on_empty_state_that_has_a_past(pair: list[Machine]) -> None:
    old, new = pair
    old.start()
    old.ask("POST", "/entries", {"id": "a", "amount": 1})
    old.hook("quiesce")
    ship(old, new)
    refused = new.run("serve")
    assert refused.returncode == 1
    assert "run restore first" in refused.stderr


def test_a_damaged_image_is_refused_and_the_live_ledger_kept(tmp_path: Path) -> None:
    live, image = tmp_path / "live", tmp_path / "image" / "ledger.db"
    store = Store(str(live / "ledger.db"))
    for number in range(2000):
        store.add(f"entry-{number}", number, epoch=1)
    ImageTaker(str(live / "ledger.db"), str(image)).take()
    store.add("newest", 1, epoch=1)
    store.close()
    pages = bytearray(image.read_bytes())
    pages[8192:12288] = os.urandom(4096)
    image.write_bytes(pages)
    with pytest.raises(ImageDamaged):
        restore(str(image), str(live))
    assert "newest" in seqs_and_ids(live / "ledger.db")[1]
    image.write_bytes(b"not a database at all" * 400)
    with pytest.raises(ImageDamaged):
        restore(str(image), str(live))
    image.unlink()
    with pytest.raises(LedgerMissing):
        restore(str(image), str(live))
    assert "newest" in seqs_and_ids(live / "ledger.db")[1]


def test_what_a_killed_quiesce_left_is_in_nobodys_way(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "live" / "ledger.db"))
    store.add("a", 1, epoch=1)
    for name in ("image.partial", "image.partial-journal"):
        (tmp_path / name).write_bytes(b"half a copy")
    image = tmp_path / "image" / "ledger.db"
    assert ImageTaker(str(tmp_path / "live" / "ledger.db"), str(image)).take().changed
    assert problems_of(image) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "live"]
    store.close()


def test_a_restore_that_was_killed_halfway_is_done_again_and_not_served(pair: list[Machine]) -> None:
    machine = pair[0]
    machine.start()
    machine.ask("POST", "/entries", {"id": "a", "amount": 1})
    machine.hook("quiesce")
    machine.terminate()
    replaced = machine.live / "replaced"
    replaced.mkdir()
    (machine.live / "ledger.db").rename(replaced / "ledger.db")
    (machine.live / "ledger.db.incoming").write_bytes(machine.image.read_bytes()[:100])
    assert machine.run("serve").returncode == 1
    machine.hook("restore")
    machine.start()
    assert machine.entry_ids() == {"a"}


def test_a_restore_never_mixes_the_image_with_the_log_of_what_it_replaces(tmp_path: Path) -> None:
    image = tmp_path / "image" / "ledger.db"
    source = Store(str(tmp_path / "source" / "ledger.db"))
    source.add("from-image", 1, epoch=2)
    ImageTaker(str(tmp_path / "source" / "ledger.db"), str(image)).take()
    source.close()
    live = tmp_path / "live"
    killed = Store(str(live / "ledger.db"))
    killed.add("stale", 1, epoch=1)
    assert (live / "ledger.db-wal").stat().st_size > 0  # what it holds is in its log, as after a SIGKILL
    assert restore(str(image), str(live)) == 1
    restored = Store(str(live / "ledger.db"))
    assert [entry.id for entry in restored.after(0, limit=10)] == ["from-image"]
    restored.close()
    kept = sqlite3.connect(live / "replaced" / "ledger.db")
    assert kept.execute("SELECT id FROM entries").fetchall() == [("stale",)]
    kept.close()


def test_the_same_number_of_entries_is_not_the_same_ledger(tmp_path: Path) -> None:
    """After a lossy failover `seq` is given out again, and an image of the other history must not pass for this one."""
    image = tmp_path / "image" / "ledger.db"
    for name in ("one", "other"):
        store = Store(str(tmp_path / name / "ledger.db"))
        store.add(name, 1, epoch=1)
        assert ImageTaker(str(tmp_path / name / "ledger.db"), str(image)).take().changed
        assert seqs_and_ids(image)[1] == {name}
        store.close()


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.sampled_from(["add", "take", "reopen", "restore", "tear"]), max_size=14))
def test_the_image_is_always_the_ledger_as_it_was_when_last_taken(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    database, image = str(folder / "live" / "ledger.db"), folder / "image" / "ledger.db"
    store = Store(database)
    taker = ImageTaker(database, str(image))
    in_ledger: list[str] = []
    in_image: list[str] | None = None
    is_torn = False
    for number, step in enumerate(steps):
        match step:
            case "add":
                store.add(f"e-{number}", number, epoch=1)
                in_ledger.append(f"e-{number}")
            case "take":
                taken = taker.take()
                assert taken.changed == (is_torn or in_image != in_ledger)
                in_image, is_torn = list(in_ledger), False
            case "reopen":
                store.close()
                store, taker = Store(database), ImageTaker(database, str(image))
            case "tear" if in_image is not None:
                image.write_bytes(b"torn")
                is_torn = True
            case "restore" if in_image is not None and not is_torn:
                store.close()
                restore(str(image), str(folder / "live"))
                store, in_ledger = Store(database), list(in_image)
        assert [entry.id for entry in store.after(0, limit=100)] == in_ledger
        if in_image is not None and not is_torn:
            assert problems_of(image) == []
            assert seqs_and_ids(image)[1] == set(in_image)
    store.close()


def test_hooks_leave_how_long_they_took(pair: list[Machine]) -> None:
    old, new = pair
    old.start()
    old.ask("POST", "/entries", {"id": "a", "amount": 1})
    for verb in ("freeze", "quiesce", "thaw", "stop"):
        old.hook(verb)
    ship(old, new)
    new.hook("restore")
    new.start()
    records = [json.loads(line) for machine in pair for line in machine.log.read_text().splitlines()]
    took = {record["event"]: record["took_ns"] for record in records if "took_ns" in record}
    assert set(took) == {"serving", "healthy", "frozen", "quiesced", "thawed", "stopped", "restored"}
    assert all(0 <= nanoseconds < 5_000_000_000 for nanoseconds in took.values())
