"""The primary's side of state transfer: takes generations from the watched paths.

A generation is read on a thread of its own and shipped at the same time, so reading, hashing and compressing overlap
with sending. What is read waits in a buffer of bounded size; when the link is slower than the disk, reading waits.

A file is read if its status differs from when it was read last, and a block is sent if its hash differs from what the
standby holds. The status alone is not proof: a file that was written in the moment in which it was read may be written
again within the same tick of the file system's clock. Such a file is read once more for the next generation. Writes
through a shared memory map change the status late; a workload that does so needs a quiesce hook.

What the last generation found is remembered. Where the standby holds just that, only what differs since then is
compared, read and listed; the cost of the rest is that of looking at its status.

While the watch is quiet hardly anything is looked at. It begins before the tree is walked, so what happens from then
on it notices, or the walk sees. What it can not notice are writes through memory maps or Linux's native asynchronous
I/O, and file systems that others write to. So the files that changed last are looked at all the same, and all of them
now and then; a watch that was found to have missed something is not relied upon any more.
"""

from __future__ import annotations

import heapq
import json
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from spot_agent.sync.blocks import (
    HASH_BYTES,
    LARGEST_FILE,
    MOST_BLOCKS,
    PartialHashes,
    block_count,
    choose_block_size,
    hash_block,
    hash_blocks,
    next_data,
    zero_hashes,
)
from spot_agent.sync.channel import wait_until
from spot_agent.sync.errors import GenerationUnsound, PathNotWatchable
from spot_agent.sync.frames import CHUNK_BYTES, Blocks, Frame, Packer, Run, encode_blocks
from spot_agent.sync.manifest import (
    EMPTY,
    Entry,
    HashForm,
    Key,
    Kind,
    Listed,
    Manifest,
    encode_key,
    encode_listed,
    split,
)
from spot_agent.sync.paths import WatchedPaths
from spot_agent.sync.scan import Signature, Walk, Walker
from spot_agent.sync.watch import Watch

_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# File systems stamp changes with the kernel's coarse clock, which ticks at least 100 times a second.
_TICK_NS: Final = 20_000_000
_WALKS: Final = 4
_READS: Final = 4
_REMEMBERED_MANIFESTS: Final = 4
_LIST_BYTES: Final = 1 << 20
_COMPARED_AT_ONCE: Final = 16  # block hashes
# The watch is checked by a walk: soon at first, then ever more seldom while it is found to be right.
_FIRST_CHECK_SECONDS: Final = 2.0
_LAST_CHECK_SECONDS: Final = 60.0
# A check is this many times as far from the next as it took.
_CHECK_SHARE: Final = 200.0
# How many of the files that changed last are looked at although the watch is quiet.
_LIVELY_FILES: Final = 128


@dataclass(frozen=True)
class Progress:
    """How far the shipping, or receiving, of one generation is.

    Attributes:
        done_bytes: Bytes of watched files dealt with.
        total_bytes: Bytes of watched files that have to be dealt with; 0 until the tree has been walked.
        wire_bytes: Bytes put on the wire for it, compressed.
        bytes_per_second: Rate of `done_bytes` since the start.
    """

    done_bytes: int
    total_bytes: int
    wire_bytes: int
    bytes_per_second: float

    @property
    def percent(self) -> float:
        """Between 0 and 100."""
        if self.done_bytes >= self.total_bytes:
            return 100.0
        return 100.0 * self.done_bytes / self.total_bytes


class OutgoingGeneration:
    """A generation being read while it is shipped.

    Attributes:
        number: Rises by at least one per generation within an epoch.
        epoch: The primary's epoch.
        final_for: Handover id if this is the last generation of a handover.
        taken_at: Epoch seconds by this instance's clock: everything up to then is in it.
        base: Root hash of what the standby must hold; None for everything.
        extra: What travels along.
    """

    def __init__(
        self,
        number: int,
        *,
        epoch: int,
        final_for: str | None,
        taken_at: float,
        base: str | None,
        extra: Mapping[str, Any],
        buffer_bytes: int,
    ) -> None:
        self.number = number
        self.epoch = epoch
        self.final_for = final_for
        self.taken_at = taken_at
        self.base = base
        self.extra = extra
        self._buffer_bytes = buffer_bytes
        self._frames: deque[Frame] = deque()
        self._buffered = 0
        self._changed = threading.Condition()
        self._cancelled = False
        self._failure: BaseException | None = None
        self._has_content = False
        self._result: tuple[Manifest, bool, bool] | None = None

    def wait_until_read(self, timeout_seconds: float) -> Manifest:
        """Block until everything is read.

        Without somebody shipping it at the same time this only returns for generations that fit the buffer.

        Raises:
            GenerationUnsound: Files kept changing or could not be read, or it was cancelled.
            TimeoutError: Not read in time.
        """
        return self._outcome(timeout_seconds)[0]

    def has_changes(self, timeout_seconds: float) -> bool:
        """Whether there is something to ship; waits until the first of it is read, or all is known to be unchanged.

        What could not be read soundly counts as changed: shipping it says what was wrong.

        Raises:
            TimeoutError: Not known in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_content or self._over(), timeout_seconds):
                raise TimeoutError(f"generation {self.number} was not read within {timeout_seconds} s")
            if self._has_content or self._result is None:
                return True
            _, settled, changed = self._result
            return changed or not settled

    @property
    def settled(self) -> bool:
        """Whether it is known to be an image of one point in time; False while it is being read."""
        return self._result is not None and self._result[1]

    def cancel(self) -> None:
        """Stop reading; `ship` then raises. Harmless afterwards."""
        with self._changed:
            self._cancelled = True
            self._frames.clear()
            self._buffered = 0
            self._changed.notify_all()

    def frames(self, *, deadline: float) -> Iterator[Frame]:
        """The frames in order, as they are read; may be asked for once.

        Args:
            deadline: On the monotonic clock.

        Raises:
            TimeoutError: The next one was not read in time.
            GenerationUnsound: Files kept changing or could not be read, or it was cancelled.
        """
        while True:
            with self._changed:
                in_time = self._changed.wait_for(lambda: self._frames or self._over(), wait_until(deadline))
                if not in_time:
                    raise TimeoutError(f"generation {self.number} was not read in time")
                if self._frames:
                    frame = self._frames.popleft()
                    self._buffered -= len(frame.payload)
                    self._changed.notify_all()
                elif self._failure is not None:
                    raise self._failure
                elif self._cancelled:
                    raise GenerationUnsound("the generation was cancelled while it was read")
                else:
                    return
            yield frame

    def put(self, frame: Frame) -> None:
        """Add a frame; waits while the buffer is full. For the reading thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled or self._buffered < self._buffer_bytes)
            if self._cancelled:
                raise GenerationUnsound("the generation was cancelled while it was read")
            self._frames.append(frame)
            self._buffered += len(frame.payload)
            self._has_content |= frame.kind not in ("begin", "end")
            self._changed.notify_all()

    def finish(self, manifest: Manifest, *, settled: bool, changed: bool) -> None:
        """Everything is read. For the reading thread."""
        with self._changed:
            self._result = (manifest, settled, changed)
            self._changed.notify_all()

    def fail(self, failure: BaseException) -> None:
        """It could not be read. For the reading thread."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _over(self) -> bool:
        return self._cancelled or self._failure is not None or self._result is not None

    def _outcome(self, timeout_seconds: float) -> tuple[Manifest, bool, bool]:
        with self._changed:
            if not self._changed.wait_for(self._over, timeout_seconds):
                raise TimeoutError(f"generation {self.number} was not read within {timeout_seconds} s")
            if self._failure is not None:
                raise self._failure
            if self._result is None:
                raise GenerationUnsound("the generation was cancelled while it was read")
            return self._result


@dataclass(frozen=True, slots=True)
class _Known:
    """A file as it was read last.

    Attributes:
        signature: Its status then.
        entry: What it was.
        trusted: Whether the same signature proves the same content.
    """

    signature: Signature
    entry: Entry
    trusted: bool


class GenerationSource:
    """Takes generations. One per agent process; knows the hashes of all it has read, so it re-reads only what
    changed.
    """

    def __init__(
        self,
        watched: WatchedPaths,
        *,
        buffer_bytes: int = 64 << 20,
        watch: Watch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep what is given; nothing is read yet.

        Args:
            watched: What is taken.
            buffer_bytes: How much may wait for the link.
            watch: Notices changes; without one, each generation walks the whole tree.
            clock: Seconds that only go forwards.
        """
        self._watched = watched
        self._buffer_bytes = buffer_bytes
        self._watch = watch
        self._walker = Walker(watched, watch=watch)
        self._clock = clock
        self._unchanged: Manifest | None = None
        self._lively: list[tuple[bytes, Signature]] = []
        self._walked_at = float("-inf")
        self._walk_seconds = 0.0
        self._check_seconds = _FIRST_CHECK_SECONDS
        self._known: dict[Key, _Known] = {}
        self._found: Manifest | None = None
        self._suspects: set[Key] = set()
        self._manifests: deque[Manifest] = deque(maxlen=_REMEMBERED_MANIFESTS)
        self._reading = threading.Lock()

    def take(
        self,
        number: int,
        *,
        epoch: int,
        held: Manifest | None,
        final_for: str | None = None,
        extra: Mapping[str, Any] | None = None,
        must_settle: bool = True,
        on_read: Callable[[], None] | None = None,
        as_of: float | None = None,
    ) -> OutgoingGeneration:
        """Begin to read the watched paths; returns at once.

        Several may be taken, one per standby: each is read when the one before it is read.

        Args:
            number: Of the new generation; greater than any before in this epoch.
            epoch: The primary's epoch.
            held: What the standby holds (`PrimaryLink.held`); None sends everything.
            final_for: Handover id, for the last generation of a handover.
            extra: JSON-able payload that travels along: configuration, prices, switch history.
            must_settle: True when the workload is quiesced or frozen: a file that keeps changing is an error. False
                accepts files of different moments, and says so in `settled`.
            on_read: Called once on the reading thread when reading is over, also when it failed: thaw here.
            as_of: The moment that the generation stands for, epoch seconds; now, if nobody quiesced for it before. A
                write after that moment may or may not be in it.

        Returns:
            A generation in progress: ship it, or cancel it.
        """
        generation = OutgoingGeneration(
            number,
            epoch=epoch,
            final_for=final_for,
            taken_at=time.time() if as_of is None else as_of,
            base=None if held is None else held.root_hash,
            extra=dict(extra or {}),
            buffer_bytes=self._buffer_bytes,
        )

        def read() -> None:
            try:
                with self._reading:
                    self._read(generation, held, must_settle=must_settle)
            except (OSError, PathNotWatchable) as unreadable:
                generation.fail(GenerationUnsound(f"the watched paths can not be read: {unreadable}"))
            except BaseException as failure:  # noqa: BLE001  whoever ships it must learn of any failure
                generation.fail(failure)
            finally:
                if on_read is not None:
                    on_read()

        threading.Thread(target=read, name=f"read-generation-{number}", daemon=True).start()
        return generation

    def survey(self, number: int, *, epoch: int, timeout_seconds: float) -> Manifest:
        """Read what is in the watched paths and ship it to nobody; only what changed since the last reading is read.

        For a former primary whose workload has ended: what it writes when it is stopped may be in no generation yet.

        Args:
            number: Of the generation that this would be.
            epoch: Whose state it is.
            timeout_seconds: For all of it.

        Raises:
            GenerationUnsound: Files kept changing, or could not be read.
            TimeoutError: Not read in time.
        """
        deadline = time.monotonic() + timeout_seconds
        generation = self.take(number, epoch=epoch, held=self._manifests[-1] if self._manifests else None)
        for _ in generation.frames(deadline=deadline):
            pass
        return generation.wait_until_read(timeout_seconds)

    def is_unchanged(self, held: Manifest | None) -> bool:
        """Whether it is known, without looking at the tree, that it still is what the standby holds.

        Args:
            held: What the standby holds.

        Returns:
            False as well when that is not known: nobody watches, a generation is being read, or it is time to look.
        """
        if self._watch is None or held is None or not self._reading.acquire(blocking=False):
            return False
        try:
            if self._unchanged is None or not self._watch.is_quiet():
                self._unchanged = None
                return False
            if not all(_looks_like(place, signature) for place, signature in self._lively):
                self._unchanged = None
                if self._watch.is_quiet():
                    self._watch.distrust()
                return False
            since = self._clock() - self._walked_at
            due = since >= max(self._check_seconds, self._walk_seconds * _CHECK_SHARE)
            return not due and self._unchanged.root_hash == held.root_hash
        finally:
            self._reading.release()

    def _read(self, generation: OutgoingGeneration, held: Manifest | None, *, must_settle: bool) -> None:
        watch, began = self._watch, self._clock()
        expected, self._unchanged = self._unchanged, None
        if watch is not None and not watch.begin():
            expected = None
        reading = _Reading(
            self._watched,
            self._walker,
            self._known,
            generation,
            held,
            # What changed since the last reading is all that has to be compared, if that is what the standby holds.
            suspects=self._suspects if _same_tree(self._found, held) else None,
            must_settle=must_settle,
        )
        try:
            self._known = reading.run()
        except BaseException:
            self._suspects |= reading.seen_differing
            raise
        self._found, self._suspects = reading.manifest, reading.suspects()
        self._manifests.append(reading.manifest)
        self._walked_at = self._clock()
        self._walk_seconds = self._walked_at - began
        if watch is None or not watch.complete():
            return
        if expected is not None:
            if expected.root_hash != reading.manifest.root_hash:
                if watch.is_quiet():
                    watch.distrust()
                return
            self._check_seconds = min(2 * self._check_seconds, _LAST_CHECK_SECONDS)
        newest = heapq.nlargest(_LIVELY_FILES, self._known.items(), key=lambda known: known[1].signature.mtime_ns)
        self._lively = [(self._watched.place(key), known.signature) for key, known in newest]
        self._unchanged = reading.manifest

    def recall(self, root_hash: str) -> Manifest | None:
        """The manifest with this root hash, if it was taken lately."""
        # A copy: who reads at this moment adds to it, and going through it meanwhile would fail.
        return next((manifest for manifest in tuple(self._manifests) if manifest.root_hash == root_hash), None)

    def adopt(self, manifest: Manifest) -> None:
        """Reuse the hashes of a promoted standby: files that look as the manifest says are not read again.

        Call it before the workload starts; afterwards a file that was changed in place may look the same.
        """
        with self._reading:
            self._recognize(manifest, changed_before_ns=None)
            self._manifests.append(manifest)

    def recognize(self, manifest: Manifest, *, as_of: float) -> None:
        """Reuse the hashes of a generation that an earlier process of this primary took.

        After a restart, files that have not changed since before that are not read again. Does nothing where this
        process has read files itself.

        Args:
            manifest: What it contained.
            as_of: When it was taken, epoch seconds by this instance's clock.

        Raises:
            GenerationUnsound: The watched paths can not be looked at.
        """
        with self._reading:
            if not self._known:
                try:
                    self._recognize(manifest, changed_before_ns=int(as_of * 1e9) - _TICK_NS)
                except (OSError, PathNotWatchable) as unreadable:
                    raise GenerationUnsound(f"the watched paths can not be read: {unreadable}") from unreadable

    def _recognize(self, manifest: Manifest, *, changed_before_ns: int | None) -> None:
        self._found = None
        files = self._walker.walk().files
        # Who moves a folder changes nothing about the files in it.
        unsure = set() if changed_before_ns is None else self._walker.folders_changed_since(changed_before_ns)
        for key, signature in files.items():
            entry = manifest.file(key)
            if entry is None or (entry.size, entry.mtime_ns) != (signature.size, signature.mtime_ns):
                continue
            # Unlike the modification time, no program can set the change time back.
            if changed_before_ns is None or (signature.ctime_ns < changed_before_ns and key.parent not in unsure):
                self._known[key] = _Known(signature, entry, trusted=True)


class _Sent:
    """What of one file has gone into this generation."""

    __slots__ = ("block_size", "blocks", "into")

    def __init__(self, into: str, block_size: int) -> None:
        self.into = into
        self.block_size = block_size
        self.blocks = PartialHashes()


class _FileVanished(Exception):
    """The file is no longer there, or is no longer a file."""


class _Reading:
    """Reads one generation.

    Attributes:
        manifest: What was found.
        seen_differing: What its walks found to differ from the walk before.
    """

    def __init__(
        self,
        watched: WatchedPaths,
        walker: Walker,
        known: Mapping[Key, _Known],
        generation: OutgoingGeneration,
        held: Manifest | None,
        *,
        suspects: Set[Key] | None,
        must_settle: bool,
    ) -> None:
        """Read nothing yet.

        Args:
            watched: What is read.
            walker: Looks at it.
            known: The files as they were read last.
            generation: Takes the frames.
            held: What the standby holds.
            suspects: What may differ from that, beside what the walker finds to differ; None: anything may.
            must_settle: Whether a file that keeps changing is an error.
        """
        self._watched = watched
        self._walker = walker
        self._known = known
        self._generation = generation
        self._held = held or EMPTY
        self._must_settle = must_settle
        self._all = suspects is None
        self._checked: set[Key] = set() if suspects is None else set(suspects)
        self._now: dict[Key, _Known] = {} if suspects is None else dict(known)
        self._latest = Walk()
        self.seen_differing: set[Key] = set()
        self._sent: dict[Key, _Sent] = {}
        self._moved: dict[Key, Key] = {}
        self._moved_away: set[Key] = set()
        self._chunks = _Chunks(generation)
        self.manifest = EMPTY

    def run(self) -> dict[Key, _Known]:
        """Read everything, and put it into the generation; answers what is known of the files now."""
        found, settled = self._settle()
        self._chunks.flush()
        if self._all:
            entries = {**found.others, **{key: known.entry for key, known in self._now.items()}}
            removed = [key for key in self._held if key not in entries]
        else:
            seen = {key: found.others.get(key) or _entry(self._now.get(key)) for key in self._checked}
            entries = {key: entry for key, entry in seen.items() if entry is not None}
            removed = [key for key in self._checked if key not in entries and key in self._held]
        changed = {key: entry for key, entry in entries.items() if not _equal(self._held.get(key), entry)}
        self.manifest = self._held.changed(changed, removed) if changed or removed else self._held
        self._put_lists(changed, removed)
        end = {
            "type": "end",
            "root": self.manifest.root_hash,
            "settled": settled,
            "done": self._chunks.done_bytes,
        }
        self._generation.put(Frame(end))
        self._generation.finish(self.manifest, settled=settled, changed=bool(changed or removed))
        return self._now

    def suspects(self) -> set[Key]:
        """What may differ from what was found although the next walk finds it as the last one did."""
        latest = self._latest
        return {key for key in self._checked | self.seen_differing if not self._is_sure(key, latest)}

    def _is_sure(self, key: Key, latest: Walk) -> bool:
        known, signature = self._now.get(key), latest.files.get(key)
        if known is None or signature is None:
            return known is None and signature is None and latest.others.get(key) == self.manifest.get(key)
        return known.trusted and known.signature == signature

    def _settle(self) -> tuple[Walk, bool]:
        """Walk and read until a walk finds what the one before found; answers the last walk and whether it did."""
        before: Walk | None = None
        for walked in range(_WALKS):
            found = self._latest = self._walker.walk()
            self._refuse_links(found)
            self.seen_differing |= found.differing
            if before is None:
                self._check(found)
                self._begin(found)
            elif not (found.differing or found.disturbed or before.disturbed):
                return before, True
            elif not self._must_settle and walked > 1:
                break
            self._checked |= found.differing
            something_read = self._bring_all(found)
            if before is None and not (something_read or found.disturbed or self._lost_sight(found)):
                return found, True
            before = found
        if self._must_settle:
            raise GenerationUnsound(
                "watched files keep changing although the workload is held still; "
                "freeze or quiesce must stop all writes to the watched paths"
            )
        return before or Walk(), False

    def _lost_sight(self, found: Walk) -> bool:
        """Whether something may only seem to be gone: moved, by a workload that goes on, to where was looked before."""
        gone = (key for key in found.differing if key not in found.files and key not in found.others)
        return not self._must_settle and next(gone, None) is not None

    def _refuse_links(self, found: Walk) -> None:
        """A watched path was resolved when the agent started: as a link, it would lead elsewhere on each instance."""
        for number, root in enumerate(self._watched.roots):
            entry = found.others.get(Key(number, b""))
            if entry is not None and entry.kind is Kind.LINK:
                raise PathNotWatchable(f"{root} has become a symbolic link; watch what it leads to, or what holds it")

    def _check(self, found: Walk) -> None:
        """Have what the first walk found to differ checked, and everything if anything may differ."""
        self._checked |= found.differing
        if self._all:
            self._checked.update(self._known, found.files)
        for key in self._checked if self._now else ():
            self._now.pop(key, None)

    def _begin(self, found: Walk) -> None:
        self._find_moved(found)
        generation = self._generation
        begin = {
            "type": "begin",
            "number": generation.number,
            "epoch": generation.epoch,
            "final_for": generation.final_for,
            "taken_at": generation.taken_at,
            "base": generation.base,
            "roots": len(self._watched.roots),
            "total": sum(
                signature.size
                for key in self._checked
                if (signature := found.files.get(key)) is not None and not self._is_held(key, signature)
            ),
        }
        generation.put(Frame(begin, json.dumps(generation.extra).encode()))

    def _find_moved(self, found: Walk) -> None:
        """Find files that were renamed, by their inodes, so that a rename sends a name and not the content."""
        departed = {
            known.signature.inode: key
            for key in self._checked
            if (known := self._known.get(key)) is not None
            and self._held.file(key) is not None
            and _inode(found.files.get(key)) != known.signature.inode
        }
        for key in sorted(self._checked) if departed else ():
            signature = found.files.get(key)
            if signature is None:
                continue
            known = self._known.get(key)
            former = departed.get(signature.inode)
            if former is None or (known is not None and known.signature.inode == signature.inode):
                continue
            # The inode may as well have been given to an unrelated new file.
            size = self._known[former].entry.size
            if size <= signature.size <= 2 * size + CHUNK_BYTES:
                del departed[signature.inode]
                self._moved[key] = former
                self._moved_away.add(former)

    def _is_held(self, key: Key, signature: Signature) -> bool:
        """Whether the standby is known to hold the file's content, so that it need not be read."""
        known = self._known.get(key)
        held = self._held.file(key)
        return (
            known is not None
            and held is not None
            and known.trusted
            and known.signature == signature
            and known.entry.same_content(held)
        )

    def _bring_all(self, found: Walk) -> bool:
        """Bring all files up to what a walk found; answers whether any had to be read."""
        something_read = False
        for key in sorted(self._checked):
            signature = found.files.get(key)
            if signature is None:
                self._now.pop(key, None)
                continue
            now = self._now.get(key)
            if now is not None and now.signature == signature:
                continue
            try:
                something_read |= self._bring(key, signature)
            except _FileVanished:
                found.disturbed = True
                self._now.pop(key, None)
        back_again = next(
            (key for key in self._moved_away if _inode(found.files.get(key)) == self._known[key].signature.inode), None
        )
        if back_again is not None:
            raise GenerationUnsound(f"{back_again} was away for a moment while the tree was read")
        return something_read

    def _bring(self, key: Key, signature: Signature) -> bool:
        if self._is_held(key, signature) and key not in self._sent:
            known = self._known[key]
            self._now[key] = _Known(signature, _with_metadata(known.entry, signature), trusted=True)
            return False
        former = self._moved.get(key)
        reference = self._reference(key)
        if former is not None:
            known = self._known[former]
            # Renaming a folder does not even touch the files in it.
            if known.trusted and known.signature == signature and _same(known.entry, reference):
                self._now[key] = _Known(signature, _with_metadata(known.entry, signature), trusted=True)
                return False
        for attempt in range(_READS):
            known, whole = self._read(key, reference, last=attempt == _READS - 1)
            if whole:
                self._now[key] = known
                return True
        raise GenerationUnsound(f"{key} keeps changing while it is read")

    def _reference(self, key: Key) -> Entry | None:
        """What the standby has to which the changes of a file can be applied."""
        former = self._moved.get(key)
        if former is None and key in self._moved_away:
            return None  # its content there moves to another place, this is a new file
        return self._held.file(former or key)

    def _read(self, key: Key, reference: Entry | None, *, last: bool) -> tuple[_Known, bool]:
        """Read a file once; answers what it is, and whether it stayed the same meanwhile."""
        started_ns = time.time_ns()
        try:
            descriptor = os.open(self._watched.place(key), _OPEN_FILE)
        except PermissionError as forbidden:
            raise PathNotWatchable(f"{key} may not be read by the agent") from forbidden
        except OSError as gone:
            raise _FileVanished from gone
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise _FileVanished
            block_size = self._block_size(key, before.st_size, reference)
            hashes, complete = self._read_blocks(key, descriptor, before, block_size, reference)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        unchanged = complete and Signature.of(before) == Signature.of(after)
        # Not by the modification time, which a program may set to the future, and each generation would read it anew.
        trusted = unchanged and after.st_ctime_ns < started_ns - _TICK_NS
        entry = Entry(
            Kind.FILE,
            stat.S_IMODE(after.st_mode),
            after.st_uid,
            after.st_gid,
            after.st_mtime_ns,
            before.st_size,
            block_size,
            hashes,
        )
        whole = unchanged or (last and complete and not self._must_settle)
        return _Known(Signature.of(after), entry, trusted), whole

    def _block_size(self, key: Key, size: int, reference: Entry | None) -> int:
        if size > LARGEST_FILE:
            raise PathNotWatchable(f"{key} has {size} bytes; at most {LARGEST_FILE} can be carried")
        sent = self._sent.get(key)
        if sent is None:
            known = self._known.get(key)
            used = reference or (known.entry if known is not None else None)
            return choose_block_size(size, used_so_far=None if used is None else used.block_size)
        if block_count(size, sent.block_size) > MOST_BLOCKS:
            raise GenerationUnsound(f"{key} grew too fast to be read")
        return sent.block_size

    def _read_blocks(
        self, key: Key, descriptor: int, status: os.stat_result, block_size: int, reference: Entry | None
    ) -> tuple[bytes, bool]:
        """Read, hash and send what differs; answers the hashes and whether all bytes were there."""
        hashes: list[bytes] = []
        sent = self._sent.get(key)
        for offset, content, length in _segments(descriptor, status, block_size, reference):
            found = zero_hashes(length, block_size) if content is None else hash_blocks(memoryview(content), block_size)
            first = offset // block_size
            wanted = _differing(first, found, content, offset, block_size, reference, sent)
            if wanted:
                if sent is None:
                    sent = self._sent[key] = _Sent("stage" if reference is None else "journal", block_size)
                stretches = list(_stretches(wanted, found, length, block_size))
                self._chunks.add(key, sent, _runs(first, stretches, content, length, block_size))
                for start, end, _ in stretches:
                    sent.blocks.put(first + start, found[start:end])
            hashes += found
            self._chunks.done_bytes += length
            if content is not None and len(content) < length:
                return b"".join(hashes), False
        return b"".join(hashes), True

    def _put_lists(self, changed: Mapping[Key, Entry], removed: list[Key]) -> None:
        listed = (self._listed(key, entry) for key, entry in sorted(changed.items()))
        for kind, pieces in (
            ("entries", split(listed, encode_listed, limit=_LIST_BYTES)),
            ("removed", split(removed, encode_key, limit=_LIST_BYTES)),
        ):
            for piece in pieces:
                coding, payload = self._chunks.packer.pack(piece)
                self._generation.put(Frame({"type": kind, "coding": coding}, payload))

    def _listed(self, key: Key, entry: Entry) -> Listed:
        moved_from = self._moved.get(key)
        sent = self._sent.get(key)
        if entry.kind is not Kind.FILE or (sent is not None and sent.into == "stage"):
            return Listed(key, entry, HashForm.WHOLE if entry.kind is not Kind.FILE else HashForm.DERIVED)
        reference = self._reference(key)
        same_blocks = reference is None or reference.block_size == entry.block_size
        return Listed(key, entry, HashForm.DERIVED if same_blocks else HashForm.WHOLE, moved_from=moved_from)


class _Chunks:
    """Collects blocks into chunks, and chunks into the generation."""

    def __init__(self, generation: OutgoingGeneration) -> None:
        self._generation = generation
        self._groups: list[Blocks] = []
        self._into = "stage"
        self._collected = 0
        self.packer = Packer()
        self.done_bytes = 0

    def add(self, key: Key, sent: _Sent, runs: tuple[Run, ...]) -> None:
        if sent.into != self._into:
            self.flush()
            self._into = sent.into
        self._groups.append(Blocks(key, sent.block_size, runs))
        # The names and tables count as well, or 100,000 empty folders' worth of them would make one huge chunk.
        self._collected += 64 + len(key.path) + sum(run.length if run.content is not None else 16 for run in runs)
        if self._collected >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._groups:
            return
        coding, payload = self.packer.pack(encode_blocks(self._groups))
        self._generation.put(
            Frame({"type": "chunk", "into": self._into, "coding": coding, "done": self.done_bytes}, payload)
        )
        self._groups = []
        self._collected = 0


def _segments(
    descriptor: int, status: os.stat_result, block_size: int, reference: Entry | None
) -> Iterator[tuple[int, bytes | None, int]]:
    """Offset, content and wanted length of consecutive parts of a file; no content where there is a hole."""
    step = max(CHUNK_BYTES, block_size, reference.block_size if reference is not None else 0)
    sparse = status.st_blocks * 512 < status.st_size
    data_at = offset = 0
    while offset < status.st_size:
        rest = status.st_size - offset
        if sparse and data_at <= offset:
            data_at = next_data(descriptor, offset)
        hole = min(data_at - offset, rest)
        if hole == rest or hole >= step:
            length = rest if hole == rest else hole // step * step
            yield offset, None, length
        else:
            length = min(step, rest)
            yield offset, os.pread(descriptor, length, offset), length
        offset += length


def _differing(
    first: int,
    found: list[bytes],
    content: bytes | None,
    offset: int,
    block_size: int,
    reference: Entry | None,
    sent: _Sent | None,
) -> Sequence[int]:
    """Which of the found blocks the standby lacks: their positions in `found`, ascending."""
    wanted: Sequence[int]
    if reference is None:
        wanted = range(len(found))
    elif reference.block_size == block_size:
        wanted = _differing_hashes(found, reference.hashes[first * HASH_BYTES : (first + len(found)) * HASH_BYTES])
    else:
        wanted = _differing_in_other_blocks(len(found), content, offset, block_size, reference)
    if sent is None or not sent.blocks.any_within(first, first + len(found)):
        return wanted
    before = [sent.blocks.get(first + position) for position in range(len(found))]
    otherwise = frozenset(wanted)
    return [
        position
        for position, digest in enumerate(found)
        if (before[position] != digest if before[position] is not None else position in otherwise)
    ]


def _differing_hashes(found: list[bytes], former: bytes) -> list[int]:
    """Positions whose hash is another in `former`; groups that are the same all over cost one comparison."""
    now = b"".join(found)
    if now == former:
        return []
    group = _COMPARED_AT_ONCE * HASH_BYTES
    return [
        at // HASH_BYTES
        for start in range(0, len(now), group)
        if now[start : start + group] != former[start : start + group]
        for at in range(start, min(start + group, len(now)), HASH_BYTES)
        if now[at : at + HASH_BYTES] != former[at : at + HASH_BYTES]
    ]


def _differing_in_other_blocks(
    count: int, content: bytes | None, offset: int, block_size: int, reference: Entry
) -> Sequence[int]:
    """As `_differing`, where the standby knows the file in blocks of another size."""
    if content is None:
        return range(count)
    size = reference.block_size
    view = memoryview(content)
    differing: set[int] = set()
    for at in range(0, len(view), size):
        index = (offset + at) // size
        part = view[at : at + size]
        if hash_block(part) != reference.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]:
            differing.update(range(at // block_size, block_count(at + len(part), block_size)))
    return sorted(differing)


def _stretches(
    wanted: Iterable[int], found: list[bytes], length: int, block_size: int
) -> Iterator[tuple[int, int, bool]]:
    """Start, end and whether it is all zeros, of consecutive wanted blocks."""
    zeros = zero_hashes(length, block_size)
    if len(zeros) != len(found):  # the file was cut off while it was read; it is read again
        zeros = [b""] * len(found)
    start = end = 0
    empty = False
    for position in wanted:
        is_zero = found[position] == zeros[position]
        if position == end and is_zero == empty:
            end += 1
            continue
        if start < end:
            yield start, end, empty
        start, end, empty = position, position + 1, is_zero
    if start < end:
        yield start, end, empty


def _runs(
    first: int, stretches: Iterable[tuple[int, int, bool]], content: bytes | None, length: int, block_size: int
) -> tuple[Run, ...]:
    """What of the content is sent; `length` is where a last, short block ends."""
    runs = []
    for start, end, empty in stretches:
        start_at, end_at = start * block_size, min(end * block_size, length)
        if empty or content is None:
            runs.append(Run(first + start, end_at - start_at, None))
        else:
            part = memoryview(content)[start_at:end_at]
            runs.append(Run(first + start, len(part), part))
    return tuple(runs)


def _looks_like(place: bytes, signature: Signature) -> bool:
    try:
        return Signature.of(os.lstat(place)) == signature
    except OSError:
        return False


def _with_metadata(entry: Entry, signature: Signature) -> Entry:
    metadata = signature.mode, signature.uid, signature.gid, signature.mtime_ns
    if (entry.mode, entry.uid, entry.gid, entry.mtime_ns) == metadata:
        return entry
    return Entry(Kind.FILE, *metadata, entry.size, entry.block_size, entry.hashes)


def _inode(signature: Signature | None) -> tuple[int, int] | None:
    return None if signature is None else signature.inode


def _entry(known: _Known | None) -> Entry | None:
    return None if known is None else known.entry


def _equal(held: Entry | None, entry: Entry) -> bool:
    # Mostly it is the very same object, which spares comparing all fields of 100,000 of them.
    return held is entry or held == entry


def _same_tree(one: Manifest | None, other: Manifest | None) -> bool:
    return one is not None and other is not None and one.root_hash == other.root_hash


def _same(entry: Entry, other: Entry | None) -> bool:
    return other is not None and entry.same_content(other)
