"""The standby's store: exactly one complete generation, whatever dies and when.

The image itself lies in the watched paths. A new generation is received beside it: new files complete into the staging
folders, blocks of changed files into a journal. When all of it is there, adds up to the root hash that the primary
named, and is on the disk, one rename commits it. Only then the image is changed, and that can be repeated from the
start as often as it is cut off. So after a crash the image is that of the last commit:

| found on opening | done |
|---|---|
| `incoming/` | half received: removed |
| `committed/` | applied (again), then removed |
| `manifest`, `manifest.log` | what the image contains: a whole manifest, and what each generation since then changed |
| `watched` | where the image lies: configured anew, it is as if nothing were held |
| `damaged` | the image was found to differ from its manifest: nothing is held, the next generation must be a full one |
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from spot_agent.sync.apply import Application, check_blocks, write_fully, write_zeros
from spot_agent.sync.blocks import PartialHashes, block_count, hash_blocks, zero_hashes
from spot_agent.sync.durable import sync_entries, sync_folder, write_durably
from spot_agent.sync.errors import GenerationRefused, ImageDamaged, PathNotWatchable, ProtocolViolated, StorageFailed
from spot_agent.sync.frames import Blocks, Frame, Header, Run, decode_blocks, unpack
from spot_agent.sync.journal import (
    Delta,
    Generation,
    after,
    append_chunk,
    decode_records,
    encode_record,
    resolve,
    whole_delta,
    with_hashes,
)
from spot_agent.sync.manifest import EMPTY, Entry, HashForm, Key, Kind, Listed, Manifest, Reader
from spot_agent.sync.paths import Folders, Staging, WatchedPaths
from spot_agent.sync.room import ENTRY_BYTES, Room, listed_bytes, memory_for_lists
from spot_agent.sync.scan import walk

__all__ = ["Generation", "GenerationStore", "Incoming"]

log = logging.getLogger(__name__)

_LOG_WORTH_KEEPING: Final = 4 << 20
# Far beyond any that is reached, and far below where counting on from it would end.
_LAST_EPOCH: Final = 10**9
_LAST_NUMBER: Final = 10**15


class GenerationStore:
    """Holds the current generation in the watched paths, and the next one beside them until it is whole.

    Safe to use from several threads; one generation is received at a time.
    """

    def __init__(self, folder: Path, watched: WatchedPaths, *, most_list_bytes: int) -> None:
        """Keep what is given; use `open`."""
        self._folder = folder
        self._most_list_bytes = most_list_bytes
        self._watched = watched
        self._staging = tuple(Staging.of(root) for root in watched.roots)
        self._applying = threading.RLock()
        self._state = threading.Lock()
        self._committing = threading.Lock()
        self._incoming: str | None = None
        self._generation: Generation | None = None
        self._manifest: Manifest | None = None
        self._pending: tuple[Delta, Manifest | None, bool] | None = None
        self._released = False
        self._stuck = False
        self._log_is_torn = False

    @staticmethod
    def open(folder: Path, watched: WatchedPaths, *, most_list_bytes: int | None = None) -> GenerationStore:
        """Open the store and recover: drop a half-received generation, finish applying a committed one.

        Args:
            folder: The store's own folder, outside the watched paths; made if missing.
            watched: Where the image lies on this instance.
            most_list_bytes: How much memory what a generation lists may take; None takes half of the machine's.

        Raises:
            PathNotWatchable: The folder lies in a watched path.
            StorageFailed: Recovery could not write.
        """
        if any(folder.resolve().is_relative_to(root) for root in watched.roots):
            raise PathNotWatchable(f"the store {folder} lies in a watched path; keep it elsewhere")
        most = memory_for_lists() if most_list_bytes is None else most_list_bytes
        store = GenerationStore(folder, watched, most_list_bytes=most)
        with _disk_errors("the store could not be opened"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            store._recover()
        return store

    @staticmethod
    def found(folder: Path, watched: WatchedPaths, generation: Generation, manifest: Manifest) -> None:
        """Make a store, to be opened, that holds what lies in the watched paths as they are.

        In one step: half a store would say that nothing is held. One that was there is replaced.

        Args:
            folder: The store's own folder, outside the watched paths.
            watched: Where the image lies.
            generation: What it is called.
            manifest: What it contains.

        Raises:
            StorageFailed: The disk did not take it.
        """
        draft, replaced = (folder.with_name(folder.name + ending) for ending in (".draft", ".replaced"))
        with _disk_errors("the live state could not be held"):
            for left in (draft, replaced):
                shutil.rmtree(left, ignore_errors=True)
            draft.mkdir(mode=0o700, parents=True)
            write_durably(draft / "watched", [_noted_paths(watched)])
            write_durably(draft / "manifest", encode_record(whole_delta(generation, manifest)))
            sync_folder(draft)
            if folder.exists():
                folder.rename(replaced)
            draft.rename(folder)
            sync_folder(folder.parent)
            shutil.rmtree(replaced, ignore_errors=True)

    def current(self) -> Generation | None:
        """The newest committed generation; None before the first one, or when the image was found damaged."""
        with self._state:
            return self._generation

    @property
    def is_stuck(self) -> bool:
        """Whether the current generation is committed, and the disk did not take it when it was applied last."""
        return self._stuck

    def manifest(self) -> Manifest | None:
        """What the current generation contains."""
        with self._state:
            return self._manifest

    def receive(self, header: Header, extra: Mapping[str, Any], *, restoring: bool = False) -> Incoming:
        """Begin to receive a generation; drops one that was being received.

        Args:
            header: Of the frame that announces it.
            extra: What travels along.
            restoring: It may be older than what is held, if it stands alone.

        Raises:
            GenerationRefused: It is not newer than the current one, or made for another one.
            ProtocolViolated: The announcement is malformed.
            StorageFailed: The disk does not take it, or has not taken the one before yet.
        """
        self.apply_pending()
        with self._state:
            current, manifest = self._generation, self._manifest
        holds = None if manifest is None else manifest.root_hash
        order = header.number("epoch", most=_LAST_EPOCH), header.number("number", most=_LAST_NUMBER)
        if self._released:
            raise GenerationRefused("this instance is no longer a standby", reason="stale", holds=holds)
        if current is not None and order <= current.order and not (restoring and header.optional_text("base") is None):
            raise GenerationRefused(
                f"generation {order[1]} of epoch {order[0]} is not newer than {current.order[1]} of {current.order[0]}",
                reason="stale",
                holds=holds,
            )
        base = header.optional_text("base")
        if base is not None and base != holds:
            raise GenerationRefused(
                "the generation was made for another one than is held here", reason="base", holds=holds
            )
        if header.number("roots") != len(self._watched.roots):
            raise GenerationRefused(
                f"the primary watches {header.number('roots')} paths, this standby {len(self._watched.roots)}; "
                "configure both with the same list",
                reason="malformed",
                holds=holds,
            )
        announced = Generation(
            number=order[1],
            epoch=order[0],
            root_hash="",
            final_for=header.optional_text("final_for"),
            taken_at=header.seconds("taken_at"),
            extra=extra,
            settled=False,
            entry_count=0,
            total_bytes=0,
        )
        room = Room(self._most_list_bytes)
        with _disk_errors("a generation could not be received"):
            incoming = Incoming(
                self, self._folder / "incoming", self._watched, self._staging, announced, base, manifest, room
            )
        with self._committing:
            self._incoming = incoming.token
        return incoming

    def give_up_incoming(self) -> None:
        """Commit nothing of what is being received: when this returns it is committed already, or never will be."""
        with self._committing:
            self._incoming = None

    def settle(self, *, timeout_seconds: float) -> Generation:
        """Wait until the current generation is in the watched paths; call it before the workload starts.

        Raises:
            ImageDamaged: There is none, or it could not be applied as promised.
            StorageFailed: The disk did not take it.
            TimeoutError: It took longer.
        """
        if not self._applying.acquire(timeout=timeout_seconds):
            raise TimeoutError(f"the current generation was not applied within {timeout_seconds} s")
        try:
            self.apply_pending()
            current = self.current()
        finally:
            self._applying.release()
        if current is None:
            raise ImageDamaged("no complete generation is held here")
        return current

    def apply_pending(self, *, check_all: bool = False) -> None:
        """Bring the image up to the committed generation, if it is not.

        Args:
            check_all: Compare the whole tree with the generation as well, by metadata. For the last one of a handover.

        Raises:
            ImageDamaged: The image is not what it should be; `current` is None from now on.
            StorageFailed: The disk did not take it; the generation stays committed and this may be called again.
        """
        with self._applying:
            if self._pending is None:
                return
            delta, before, again = self._pending
            # Whatever happens from here on, files may be half changed.
            self._pending = delta, before, True
            with self._state:
                result = self._manifest
            if result is None:
                raise ImageDamaged("a generation is committed, and what it contains is not known")
            with (
                self._damage_noted(),
                self._sticking_noted(),
                _disk_errors(f"generation {delta.generation.number} could not be applied"),
            ):
                journal = self._folder / "committed" / "journal"
                Application(delta, before, result, journal, self._watched, again=again).run()
                if check_all:
                    compare(self._watched, result, read_files=False)
                self._remember(delta, result)
            self._pending = None

    def verify(self) -> None:
        """Read the whole image and compare it with the current generation.

        Raises:
            ImageDamaged: They differ; `current` is None from now on and the next generation must be a full one.
            StorageFailed: The disk does not give it.
        """
        with self._applying:
            self.apply_pending()
            manifest = self.manifest()
            if manifest is None:
                raise ImageDamaged("no complete generation is held here")
            with self._damage_noted(), _disk_errors("the image could not be read"):
                compare(self._watched, manifest, read_files=True)

    def release(self) -> Manifest | None:
        """Stop being a standby's store: remove journal and staging, leave the image. For the promoted instance.

        Returns:
            What the image contains, for `GenerationSource.adopt`.
        """
        with self._applying:
            self.apply_pending()
            self._released = True
            with _disk_errors("the store could not be removed"):
                # In one step: half a store would say that the image is an older one than it is.
                left = self._folder.with_name(self._folder.name + ".released")
                shutil.rmtree(left, ignore_errors=True)
                self._folder.rename(left)
                sync_folder(self._folder.parent)
                for folder in (left, *(staging.folder for staging in self._staging)):
                    shutil.rmtree(folder, ignore_errors=True)
            return self.manifest()

    # --- for Incoming ------------------------------------------------------------------------------------------------

    def commit(self, delta: Delta, result: Manifest) -> Generation:
        """Make a received generation the current one, in one durable step."""
        with self._applying, self._committing:
            if self._released or self._incoming != delta.staging:
                raise GenerationRefused("this instance is no longer a standby", reason="stale")
            (self._folder / "incoming").rename(self._folder / "committed")
            sync_folder(self._folder)
            with self._state:
                before = self._manifest
                self._generation, self._manifest = delta.generation, result
            self._pending = delta, before, False
        return delta.generation

    # --- recovery ----------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        shutil.rmtree(self._folder / "incoming", ignore_errors=True)
        shutil.rmtree(self._folder / "done", ignore_errors=True)
        for draft in self._folder.glob("*.draft"):
            draft.unlink()
        self._check_watched()
        damaged = self._folder / "damaged"
        if not damaged.exists():
            self._read_manifest()
        committed = self._folder / "committed"
        if committed.is_dir():
            self._read_committed(committed)
        in_use = self._pending[0].staging if self._pending is not None else None
        for root in self._watched.roots:
            for staging in (Staging.at(root, inside=False), Staging.at(root, inside=True)):
                for left in staging.folder.iterdir() if staging.folder.is_dir() else ():
                    if left.name != in_use:
                        shutil.rmtree(left, ignore_errors=True)
        if self._pending is not None:
            with contextlib.suppress(ImageDamaged):
                self.apply_pending()

    def _check_watched(self) -> None:
        """Forget what is held when the image now lies elsewhere: the agent was configured anew."""
        noted = self._folder / "watched"
        paths = _noted_paths(self._watched)
        if noted.exists() and noted.read_bytes() == paths:
            return
        for name in ("manifest", "manifest.log", "damaged"):
            (self._folder / name).unlink(missing_ok=True)
        self._let_go_of_committed()
        draft = self._folder / "watched.draft"
        write_durably(draft, [paths])
        draft.rename(noted)
        sync_folder(self._folder)

    def _read_manifest(self) -> None:
        roots = len(self._watched.roots)
        whole, changes = self._folder / "manifest", self._folder / "manifest.log"
        if not whole.exists():
            return
        with contextlib.suppress(ImageDamaged), self._damage_noted():
            content = whole.read_bytes()
            delta, end = next(decode_records(content, roots=roots), (None, 0))
            if delta is None or end != len(content):
                raise ImageDamaged("the manifest of the image is broken")
            self._generation, self._manifest = delta.generation, after(delta, None)
            content = changes.read_bytes() if changes.exists() else b""
            whole_until = 0
            for each, end in decode_records(content, roots=roots):
                # Older ones are left over from when the whole manifest was written anew.
                if each.generation.order > self._generation.order:
                    self._generation, self._manifest = each.generation, after(each, self._manifest)
                whole_until = end
            if whole_until < len(content):
                os.truncate(changes, whole_until)

    def _read_committed(self, committed: Path) -> None:
        with contextlib.suppress(ImageDamaged), self._damage_noted():
            content = (committed / "delta").read_bytes()
            delta, end = next(decode_records(content, roots=len(self._watched.roots)), (None, 0))
            if delta is None or end != len(content):
                raise ImageDamaged("the committed generation is broken")
            # One that stands alone may be older than what is noted, or have its number; doing it again proves it.
            is_noted = self._generation is not None and delta.generation.order == self._generation.order
            if is_noted and delta.base is not None:
                self._let_go_of_committed()  # it was applied and remembered
                return
            before = self._manifest
            self._manifest = after(delta, before)
            self._generation = delta.generation
            self._pending = delta, before, True

    def _remember(self, delta: Delta, result: Manifest) -> None:
        """Note durably what the image now contains, and let go of the journal."""
        whole, changes = self._folder / "manifest", self._folder / "manifest.log"
        grown = changes.stat().st_size if changes.exists() else 0
        if delta.base is None or self._log_is_torn or grown > max(_LOG_WORTH_KEEPING, whole.stat().st_size):
            draft = self._folder / "manifest.draft"
            write_durably(draft, encode_record(whole_delta(delta.generation, result)))
            if delta.base is None:
                # It may be older than what the log goes on with, which would then be taken to follow it.
                changes.unlink(missing_ok=True)
                sync_folder(self._folder)
            draft.rename(whole)
            sync_folder(self._folder)
            changes.unlink(missing_ok=True)
        else:
            # What follows half a record would never be read.
            self._log_is_torn = True
            with changes.open("ab") as out:
                out.writelines(encode_record(delta))
                out.flush()
                os.fsync(out.fileno())
        self._log_is_torn = False
        (self._folder / "damaged").unlink(missing_ok=True)
        sync_folder(self._folder)
        self._let_go_of_committed()
        for root, inside in zip(self._watched.roots, delta.staged_inside, strict=False):
            shutil.rmtree(Staging.at(root, inside=inside).folder / delta.staging, ignore_errors=True)

    def _let_go_of_committed(self) -> None:
        """Remove the journal of what is applied, or not wanted any more."""
        done = self._folder / "done"
        shutil.rmtree(done, ignore_errors=True)
        # First out of the way, so that a crash in between does not leave half of it, which could not be opened.
        with contextlib.suppress(FileNotFoundError):
            (self._folder / "committed").rename(done)
        shutil.rmtree(done, ignore_errors=True)

    @contextlib.contextmanager
    def _sticking_noted(self) -> Iterator[None]:
        try:
            yield
        except StorageFailed:
            self._stuck = True
            raise
        self._stuck = False

    @contextlib.contextmanager
    def _damage_noted(self) -> Iterator[None]:
        try:
            yield
        except ImageDamaged:
            log.exception("what the standby holds is not complete; a full generation is needed")
            with self._state:
                self._generation = self._manifest = None
            self._pending = None
            with _disk_errors("that the image is damaged could not be noted"):
                write_durably(self._folder / "damaged", [])
                sync_folder(self._folder)
                self._let_go_of_committed()
            raise


class _StagedFile:
    """A new file that is being received."""

    __slots__ = ("block_size", "blocks", "number")

    def __init__(self, number: int, block_size: int) -> None:
        self.number = number
        self.block_size = block_size
        self.blocks = PartialHashes()


class Incoming:
    """A generation being received. Call `drop` or `commit` at the end; not thread-safe.

    Attributes:
        token: Of this one alone; names its folder in the staging folders.
    """

    def __init__(
        self,
        store: GenerationStore,
        folder: Path,
        watched: WatchedPaths,
        staging: tuple[Staging, ...],
        announced: Generation,
        base: str | None,
        held: Manifest | None,
        room: Room,
    ) -> None:
        """Make folders; use `GenerationStore.receive`."""
        self._store = store
        self._room = room
        self._folder = folder
        self._watched = watched
        self._roots = len(watched.roots)
        self._staging = staging
        self._announced = announced
        self._base = base
        self._held = held if base is not None and held is not None else EMPTY
        self.token = secrets.token_hex(8)
        self._staged: dict[Key, _StagedFile] = {}
        self._changed: dict[Key, PartialHashes] = {}
        self._listed: dict[Key, Listed] = {}
        self._removed: set[Key] = set()
        self._moved_away: set[Key] = set()
        self._staged_count = 0
        self._open_file: tuple[Key, int] | None = None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for place in staging:
            (place.folder / self.token).mkdir(mode=0o700, parents=True)
        self._journal: BinaryIO = (folder / "journal").open("wb")
        self._dropped = False

    def add_chunk(self, frame: Frame) -> None:
        """Take blocks.

        Raises:
            GenerationRefused: They are more than this instance can keep account of.
            ProtocolViolated: They are malformed.
            StorageFailed: The disk does not take them.
        """
        header = Header(frame.header)
        into = header.text("into")
        if into not in ("stage", "journal"):
            raise ProtocolViolated(f"blocks go into 'stage' or 'journal', not {into!r}")
        content = unpack(header.text("coding"), frame.payload)
        with _disk_errors("blocks could not be written"):
            for group in decode_blocks(content, roots=self._roots):
                if into == "stage":
                    self._stage(group)
                else:
                    self._note_changed(group)
            if into == "journal":
                append_chunk(self._journal, frame)

    def add_entries(self, frame: Frame) -> None:
        """Take a list of set entries.

        Raises:
            GenerationRefused: They are more than this instance can keep account of.
            ProtocolViolated: They are malformed.
        """
        reader = Reader(unpack(Header(frame.header).text("coding"), frame.payload), roots=self._roots)
        while not reader.exhausted:
            listed = reader.listed()
            if listed.form is HashForm.CHANGED or listed.staged is not None or listed.key in self._listed:
                raise ProtocolViolated(f"{listed.key}: listed twice, or as only a standby lists it")
            self._room.take(listed_bytes(listed))
            self._listed[listed.key] = listed

    def add_removed(self, frame: Frame) -> None:
        """Take a list of removed entries."""
        reader = Reader(unpack(Header(frame.header).text("coding"), frame.payload), roots=self._roots)
        while not reader.exhausted:
            key = reader.key()
            if key not in self._held or key in self._removed:
                raise ProtocolViolated(f"{key}: removed, but not there")
            self._removed.add(key)

    def commit(self, frame: Frame) -> Generation:
        """Check that all of it is there and adds up, put it on the disk, and make it the current generation.

        Raises:
            GenerationRefused: It does not add up to the root hash that the primary names.
            ProtocolViolated: It is malformed.
            StorageFailed: The disk does not take it.
        """
        header = Header(frame.header)
        with _disk_errors("a generation could not be committed"):
            self._close_file()
            self._note_moves()
            listed = tuple(self._complete(listed) for _, listed in sorted(self._listed.items()))
            result = self._result(listed)
            if result.root_hash != header.text("root"):
                raise GenerationRefused(
                    "what arrived does not add up to what was sent",
                    reason="mismatch",
                    holds=None if self._base is None else self._base,
                )
            announced = self._announced
            generation = Generation(
                number=announced.number,
                epoch=announced.epoch,
                root_hash=result.root_hash,
                final_for=announced.final_for,
                taken_at=announced.taken_at,
                extra=announced.extra,
                settled=header.flag("settled"),
                entry_count=len(result),
                total_bytes=result.total_bytes,
            )
            inside = tuple(place.inside for place in self._staging)
            delta = Delta(generation, self._base, self.token, inside, listed, tuple(sorted(self._removed)))
            self._make_durable(delta)
            self._store.commit(delta, result)
            self._dropped = True
            return generation

    def drop(self) -> None:
        """Forget all of it, unless it was committed."""
        with contextlib.suppress(OSError):
            self._close_file()
        self._journal.close()
        if not self._dropped:
            self._dropped = True
            shutil.rmtree(self._folder, ignore_errors=True)
            for place in self._staging:
                shutil.rmtree(place.folder / self.token, ignore_errors=True)

    def _stage(self, group: Blocks) -> None:
        if group.key in self._changed:
            raise ProtocolViolated(f"{group.key}: sent both as a new and as a changed file")
        staged = self._staged.get(group.key)
        if staged is None:
            self._room.take(ENTRY_BYTES + len(group.key.path))
            staged = self._staged[group.key] = _StagedFile(self._next_number(), group.block_size)
        if staged.block_size != group.block_size:
            raise ProtocolViolated(f"{group.key}: sent in blocks of two sizes")
        descriptor = self._staged_file(group.key, staged)
        for run in group.runs:
            offset = run.first * group.block_size
            if run.content is not None:
                write_fully(descriptor, memoryview(run.content), offset)
            else:
                write_zeros(descriptor, offset, run.length)
            self._put(staged.blocks, run, group.block_size)

    def _note_changed(self, group: Blocks) -> None:
        if group.key in self._staged:
            raise ProtocolViolated(f"{group.key}: sent both as a new and as a changed file")
        known = self._changed.get(group.key)
        if known is None:
            self._room.take(ENTRY_BYTES + len(group.key.path))
            known = self._changed[group.key] = PartialHashes()
        for run in group.runs:
            self._put(known, run, group.block_size)

    def _put(self, known: PartialHashes, run: Run, block_size: int) -> None:
        self._room.take(known.growth(run.first, block_count(run.length, block_size)))
        known.put(run.first, _hashes(run, block_size))

    def _next_number(self) -> int:
        self._staged_count += 1
        return self._staged_count

    def _staged_file(self, key: Key, staged: _StagedFile) -> int:
        if self._open_file is not None and self._open_file[0] == key:
            return self._open_file[1]
        self._close_file()
        path = self._staging[key.root].folder / self.token / str(staged.number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._open_file = key, descriptor
        return descriptor

    def _close_file(self) -> None:
        if self._open_file is not None:
            os.close(self._open_file[1])
            self._open_file = None

    def _note_moves(self) -> None:
        """Check that what moves away from a place leaves it, and leaves it once."""
        for listed in self._listed.values():
            former = listed.moved_from
            if former is None:
                continue
            if former in self._moved_away or (former not in self._removed and former not in self._listed):
                raise ProtocolViolated(f"{listed.key}: moved from {former}, which stays or moves elsewhere too")
            self._moved_away.add(former)

    def _complete(self, listed: Listed) -> Listed:
        """Fill in what the list leaves out because it follows from the blocks that came."""
        if listed.entry.kind is not Kind.FILE:
            return listed
        base = self._held.file(listed.moved_from or listed.key)
        if listed.moved_from is None and listed.key in self._moved_away:
            base = None  # what was here gets another place
        staged = self._staged.get(listed.key)
        if listed.moved_from is not None:
            if base is None or staged is not None:
                raise ProtocolViolated(f"{listed.key}: moved from a place where there is no file")
            number = self._link_moved(listed.moved_from)
        elif staged is not None:
            return self._complete_staged(listed, staged)
        elif base is None:
            if listed.entry.size:
                raise ProtocolViolated(f"{listed.key}: a new file without its content")
            return self._complete_staged(listed, self._stage_empty(listed))
        else:
            number = None
        return self._complete_changed(listed, base, number)

    def _stage_empty(self, listed: Listed) -> _StagedFile:
        staged = self._staged[listed.key] = _StagedFile(self._next_number(), listed.entry.block_size)
        self._staged_file(listed.key, staged)
        self._close_file()
        return staged

    def _complete_staged(self, listed: Listed, staged: _StagedFile) -> Listed:
        entry = listed.entry
        hashes = staged.blocks.over(b"", count=block_count(entry.size, entry.block_size))
        if hashes is None or staged.block_size != entry.block_size:
            raise ProtocolViolated(f"{listed.key}: a new file of which some blocks were not sent")
        complete = with_hashes(entry, hashes)
        self._finish_staged(listed.key, staged, complete)
        return Listed(listed.key, complete, HashForm.WHOLE, staged=staged.number)

    def _complete_changed(self, listed: Listed, base: Entry, staged: int | None) -> Listed:
        entry = listed.entry
        known = self._changed.get(listed.key, PartialHashes())
        count = block_count(entry.size, entry.block_size)
        if listed.form is HashForm.WHOLE:
            return listed._replace(staged=staged)
        if base.block_size != entry.block_size:
            raise ProtocolViolated(f"{listed.key}: other blocks than before, without their hashes")
        form = Listed(listed.key, entry, HashForm.CHANGED, tuple(known.items(below=count)), listed.moved_from, staged)
        if known.over(base.hashes, count=count) is None:
            raise ProtocolViolated(f"{listed.key}: a file that grew, of which some blocks were not sent")
        return form

    def _finish_staged(self, key: Key, staged: _StagedFile, entry: Entry) -> None:
        path = self._staging[key.root].folder / self.token / str(staged.number)
        if path.stat().st_size != entry.size:
            os.truncate(path, entry.size)
        if os.geteuid() == 0:
            os.chown(path, entry.uid, entry.gid)
        path.chmod(entry.mode)
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))

    def _link_moved(self, former: Key) -> int:
        """Give a file that moves a second name in staging, so that its place may be taken before it gets its own."""
        number = self._next_number()
        target = self._staging[former.root].folder / self.token / str(number)
        with Folders(self._watched.roots[former.root]) as folders:
            folder, name = folders.holding(former)
            os.link(name, target, src_dir_fd=folder, follow_symlinks=False)
        return number

    def _result(self, listed: tuple[Listed, ...]) -> Manifest:
        changed = {each.key: resolve(each, self._held) for each in listed}
        if not self._removed.isdisjoint(changed):
            raise ProtocolViolated("an entry is both set and removed")
        result = self._held.changed(changed, self._removed)
        for key in changed:
            parent = result.get(key.parent)
            if key.path and (parent is None or parent.kind is not Kind.FOLDER):
                raise ProtocolViolated(f"{key}: what holds it is no folder")
        return result

    def _make_durable(self, delta: Delta) -> None:
        for number, place in enumerate(self._staging):
            folder = place.folder / self.token
            new = [str(each.staged) for each in delta.listed if each.key.root == number and each.staged is not None]
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sync_entries(descriptor, new)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(place.folder)
            sync_folder(place.folder.parent)
        self._journal.flush()
        os.fsync(self._journal.fileno())
        write_durably(self._folder / "delta", encode_record(delta))
        sync_folder(self._folder)


def compare(watched: WatchedPaths, manifest: Manifest, *, read_files: bool) -> None:
    """Compare the image on disk with a manifest.

    Args:
        watched: Where the image lies.
        manifest: What it should be.
        read_files: Compare content too, not only names, kinds, sizes, times, modes and owners.

    Raises:
        ImageDamaged: They differ.
    """
    found = walk(watched)
    wanted = {key for key in manifest if not _is_file(manifest, key)}
    if found.others.keys() != wanted or len(found.files) != len(manifest) - len(wanted):
        raise ImageDamaged("the standby's image has other entries than the generation says")
    for key, entry in found.others.items():
        if _facts(entry) != _facts(manifest.get(key)):
            raise ImageDamaged(f"{key}: not what the generation says")
    for key, found_as in found.files.items():
        expected = manifest.file(key)
        seen = Entry(Kind.FILE, found_as.mode, found_as.uid, found_as.gid, found_as.mtime_ns, found_as.size)
        if expected is None or _facts(seen) != _facts(expected):
            raise ImageDamaged(f"{key}: not what the generation says")
        if read_files:
            descriptor = os.open(watched.place(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                check_blocks(descriptor, key, expected, range(block_count(expected.size, expected.block_size)))
            finally:
                os.close(descriptor)


def _noted_paths(watched: WatchedPaths) -> bytes:
    return json.dumps([os.fsdecode(root) for root in watched.roots]).encode()


def _facts(entry: Entry | None) -> tuple[object, ...]:
    if entry is None:
        return ()
    owners = (entry.uid, entry.gid) if os.geteuid() == 0 else ()
    return entry.kind, entry.mode, entry.mtime_ns, entry.size, entry.target, owners


def _is_file(manifest: Manifest, key: Key) -> bool:
    return manifest.file(key) is not None


def _hashes(run: Run, block_size: int) -> list[bytes]:
    if run.content is None:
        return zero_hashes(run.length, block_size)
    return hash_blocks(memoryview(run.content), block_size)


@contextlib.contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, PathNotWatchable) as broken:
        raise StorageFailed(f"{what}: {broken}") from broken
