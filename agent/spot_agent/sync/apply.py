"""Changes the image in the watched paths to a committed generation.

Everything here may be cut off at any byte and done again from the start: blocks are written to where they belong, files
that wait in staging are moved, and what is already as it should be is left alone. Nothing follows a symbolic link
below a watched path, whatever the peer sent and whatever lies there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from spot_agent.sync.blocks import HASH_BYTES, block_count, hash_blocks, next_data, zero_hashes
from spot_agent.sync.durable import sync_file_system
from spot_agent.sync.errors import ImageDamaged
from spot_agent.sync.frames import Run
from spot_agent.sync.journal import Delta, read_chunks
from spot_agent.sync.manifest import Entry, HashForm, Key, Kind, Listed, Manifest
from spot_agent.sync.paths import Folders, Staging, WatchedPaths
from spot_agent.sync.scan import walk

_FEW: Final = 32
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE: Final = 1 << 20
_ZEROS: Final = bytes(_PIECE)


class Application:
    """One delta on its way into the image.

    Args:
        delta: What changes.
        before: What the image is; None if nothing is known about it.
        after: What it becomes.
        journal: File with the blocks of changed files.
        watched: Where the image lies.
        again: An earlier attempt was cut off, so that files may already be half changed.
    """

    def __init__(
        self,
        delta: Delta,
        before: Manifest | None,
        after: Manifest,
        journal: Path,
        watched: WatchedPaths,
        *,
        again: bool,
    ) -> None:
        self._delta = delta
        self._before = before if delta.base is not None else None
        self._after = after
        self._journal = journal
        self._watched = watched
        self._again = again
        self._listed = {listed.key: listed for listed in delta.listed}
        self._touched: set[Key] = set()

    def run(self) -> None:
        """Change the image and make the change durable.

        Raises:
            ImageDamaged: The image is not what it was said to be, before or after.
            OSError: The disk did not take it; try again.
        """
        for number, root in enumerate(self._watched.roots):
            root.parent.mkdir(parents=True, exist_ok=True)
            self._staged(number).mkdir(mode=0o700, parents=True, exist_ok=True)
        removed = self._delta.removed if self._before is not None else self._foreign()
        parents = {key.parent for key in (*removed, *self._listed) if key.path}
        self._open_up(parents)
        with self._journal.open("rb") as journal, self._all_folders() as folders, _image_as_it_was_left():
            for key in sorted(removed, reverse=True):
                self._remove(folders[key.root], key)
            for each in folders:
                each.forget()
            for listed in self._delta.listed:
                self._place(folders[listed.key.root], listed)
            self._write_blocks(journal, folders)
            for listed in self._delta.listed:
                if listed.entry.kind is Kind.FILE:
                    self._finish_file(folders[listed.key.root], listed)
            set_folders = [key for key, listed in self._listed.items() if listed.entry.kind is Kind.FOLDER]
            for key in sorted({*set_folders, *parents}, reverse=True):
                self._finish_folder(folders[key.root], key)
            self._make_durable(folders, {*set_folders, *parents})

    @contextlib.contextmanager
    def _all_folders(self) -> Iterator[list[Folders]]:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(Folders(root)) for root in self._watched.roots]

    def _foreign(self) -> list[Key]:
        """What lies in the watched paths and does not belong there."""
        found = walk(self._watched)
        return [key for key in (*found.others, *found.files) if key not in self._after]

    def _open_up(self, parents: Iterable[Key]) -> None:
        """Let a process that is not root change folders that are closed even to their owner."""
        if os.geteuid() == 0:
            return
        for key in sorted(parents):
            place = self._watched.place(key)
            with contextlib.suppress(OSError):
                status = os.lstat(place)
                if stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o700 != 0o700:
                    Path(os.fsdecode(place)).chmod(stat.S_IMODE(status.st_mode) | 0o700)

    def _remove(self, folders: Folders, key: Key) -> None:
        try:
            folder, name = folders.holding(key)
            _remove(folder, name)
        except (FileNotFoundError, NotADirectoryError):
            return  # gone with what held it
        except OSError as broken:
            if broken.errno != errno.ELOOP:
                raise

    def _place(self, folders: Folders, listed: Listed) -> None:
        """Make folders and links, and move files from staging to their places."""
        entry = listed.entry
        folder, name = folders.holding(listed.key)
        status = _status(folder, name)
        if status is not None and stat.S_ISDIR(status.st_mode) != (entry.kind is Kind.FOLDER):
            _remove(folder, name)
            status = None
        if entry.kind is Kind.FOLDER:
            if status is None:
                os.mkdir(name, 0o700, dir_fd=folder)
            elif (narrower := stat.S_IMODE(status.st_mode) & (entry.mode | 0o700)) != stat.S_IMODE(status.st_mode):
                # Before anything is put into it: who is shut out never sees what is new.
                descriptor = os.open(name, _FOLDER, dir_fd=folder)
                try:
                    os.fchmod(descriptor, narrower)
                finally:
                    os.close(descriptor)
        elif entry.kind is Kind.LINK:
            self._place_link(folder, name, listed)
        elif listed.staged is not None:
            waiting = self._staged(listed.key.root) / str(listed.staged)
            try:
                os.rename(waiting, name, dst_dir_fd=folder)
            except FileNotFoundError as missing:
                if not self._again or status is None:
                    raise ImageDamaged(f"{listed.key}: its content is no longer in staging") from missing
        if (
            entry.kind is Kind.FILE
            and status is not None
            and not stat.S_ISREG(status.st_mode)
            and listed.staged is None
        ):
            raise ImageDamaged(f"{listed.key}: a file was there and is no longer")

    def _place_link(self, folder: int, name: bytes, listed: Listed) -> None:
        entry = listed.entry
        draft = self._staged(listed.key.root) / "link"
        draft.unlink(missing_ok=True)
        draft.symlink_to(os.fsdecode(entry.target))
        _own(draft, entry, follow_symlinks=False)
        os.utime(draft, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
        os.rename(draft, name, dst_dir_fd=folder)

    def _staged(self, root: int) -> Path:
        place = Staging.at(self._watched.roots[root], inside=self._delta.staged_inside[root])
        return place.folder / self._delta.staging

    def _write_blocks(self, journal: BinaryIO, folders: list[Folders]) -> None:
        current: tuple[Key, int] | None = None
        try:
            for group in read_chunks(journal, roots=len(self._watched.roots)):
                listed = self._listed.get(group.key)
                if listed is None or listed.entry.kind is not Kind.FILE:
                    continue  # it vanished while it was read
                if current is None or current[0] != group.key:
                    if current is not None:
                        os.close(current[1])
                        current = None
                    current = group.key, self._open_changed(folders[group.key.root], listed)
                for run in group.runs:
                    _write_run(current[1], run, first=run.first * group.block_size, size=listed.entry.size)
        finally:
            if current is not None:
                os.close(current[1])

    def _open_changed(self, folders: Folders, listed: Listed) -> int:
        """Open a file that changes, and make sure, once, that it is the file whose changes these are."""
        descriptor = _open_for_writing(*folders.holding(listed.key))
        former = self._before.file(listed.moved_from or listed.key) if self._before is not None else None
        if listed.key not in self._touched:
            status = os.fstat(descriptor)
            is_former = former is not None and (former.size, former.mtime_ns) == (status.st_size, status.st_mtime_ns)
            if not self._again and not is_former:
                os.close(descriptor)
                raise ImageDamaged(f"{listed.key}: somebody else has changed the file on the standby")
            # Before any of its content: who may not read it any more never sees what is new.
            _own(descriptor, listed.entry)
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & listed.entry.mode)
        self._touched.add(listed.key)
        return descriptor

    def _finish_file(self, folders: Folders, listed: Listed) -> None:
        """Set size and metadata of a file, and compare what was written with what should be there."""
        entry = self._after.file(listed.key)
        if entry is None:
            raise ImageDamaged(f"{listed.key}: listed, but not part of the generation")
        staged_new = listed.staged is not None and listed.moved_from is None
        folder, name = folders.holding(listed.key)
        if staged_new:
            descriptor = os.open(name, _READ, dir_fd=folder)
        elif listed.key in self._touched:
            descriptor = _open_for_writing(folder, name)
        else:
            descriptor = self._open_changed(folders, listed)
        try:
            if not staged_new:
                if os.fstat(descriptor).st_size != entry.size:
                    os.ftruncate(descriptor, entry.size)
                _own(descriptor, entry)
                os.fchmod(descriptor, entry.mode)
                os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
            # Whether it was moved here before it was cut off, or never, only its content tells.
            all_of_it = listed.form is HashForm.WHOLE or (self._again and listed.staged is not None)
            whole = range(block_count(entry.size, entry.block_size))
            check_blocks(descriptor, listed.key, entry, whole if all_of_it else [index for index, _ in listed.changes])
        finally:
            os.close(descriptor)

    def _finish_folder(self, folders: Folders, key: Key) -> None:
        entry = self._after.get(key)
        if entry is None or entry.kind is not Kind.FOLDER:
            return
        folder, name = folders.holding(key)
        descriptor = os.open(name, _FOLDER, dir_fd=folder)
        try:
            _own(descriptor, entry)
            os.fchmod(descriptor, entry.mode)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _make_durable(self, folders: list[Folders], changed: Iterable[Key]) -> None:
        files = [key for key, listed in self._listed.items() if listed.entry.kind is Kind.FILE]
        kept = [key for key in changed if (entry := self._after.get(key)) is not None and entry.kind is Kind.FOLDER]
        if len(files) + len(kept) > _FEW:
            for number, root in enumerate(self._watched.roots):
                top, name = folders[number].holding(Key(number, b""))
                sync_file_system(top)
                if os.path.ismount(root):
                    with _opened(name, top) as descriptor:
                        sync_file_system(descriptor)
            return
        for key in (*files, *kept):
            folder, name = folders[key.root].holding(key)
            with _opened(name, folder) as descriptor:
                os.fsync(descriptor)
        for each in folders:
            top, _ = each.holding(Key(0, b""))
            os.fsync(top)


def check_blocks(descriptor: int, key: Key, entry: Entry, indexes: Iterable[int]) -> None:
    """Read blocks of a file and compare them with their hashes.

    Raises:
        ImageDamaged: One differs, or the file has another size.
    """
    if os.fstat(descriptor).st_size != entry.size:
        raise ImageDamaged(f"{key}: the file does not have the {entry.size} bytes that it should have")
    size, data_at = entry.block_size, 0
    for first, count in _neighbours(indexes, most=max(_PIECE // size, 1)):
        start = first * size
        length = min(count * size, entry.size - start)
        if data_at <= start:
            data_at = next_data(descriptor, start)
        if data_at >= start + length:
            found = zero_hashes(length, size)
        else:
            found = hash_blocks(memoryview(os.pread(descriptor, length, start)), size)
        expected = entry.hashes[first * HASH_BYTES : (first + count) * HASH_BYTES]
        if b"".join(found) != expected:
            wrong = next(
                (at for at, digest in enumerate(found) if digest != expected[at * HASH_BYTES : (at + 1) * HASH_BYTES]),
                len(found),
            )
            raise ImageDamaged(f"{key}: block {first + wrong} is not what was sent")


def _neighbours(indexes: Iterable[int], *, most: int) -> Iterator[tuple[int, int]]:
    """Consecutive numbers joined: the first, and how many, at most so many."""
    first, count = 0, 0
    for index in indexes:
        if count and index == first + count and count < most:
            count += 1
            continue
        if count:
            yield first, count
        first, count = index, 1
    if count:
        yield first, count


def _write_run(descriptor: int, run: Run, *, first: int, size: int) -> None:
    length = min(run.length, size - first)
    if length <= 0:
        return  # the file became shorter after this was read
    if run.content is not None:
        write_fully(descriptor, memoryview(run.content)[:length], first)
    else:
        write_zeros(descriptor, first, length)


def write_fully(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content = content[written:]
        offset += written


def write_zeros(descriptor: int, offset: int, length: int) -> None:
    """Make bytes zero; holes and what lies behind the end stay holes."""
    end = min(offset + length, os.fstat(descriptor).st_size)
    while offset < end:
        offset = max(offset, next_data(descriptor, offset))
        if offset < end:
            piece = min(_PIECE, end - offset)
            write_fully(descriptor, memoryview(_ZEROS)[:piece], offset)
            offset += piece


def _remove(folder: int, name: bytes) -> None:
    status = _status(folder, name)
    if status is None:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=folder)
        return
    try:
        os.rmdir(name, dir_fd=folder)
    except OSError as not_empty:
        if not_empty.errno != errno.ENOTEMPTY:
            raise
        # What is in it is not part of the image: a socket, or something that was put there on this instance.
        shutil.rmtree(os.fsdecode(name), dir_fd=folder)


def _status(folder: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _open_for_writing(folder: int, name: bytes) -> int:
    try:
        return os.open(name, _WRITE, dir_fd=folder)
    except PermissionError:
        # Not root, and the owner may not write: our own file, so let us. Its mode is set again when it is finished.
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            Path(f"/proc/self/fd/{handle}").chmod(0o600)
        finally:
            os.close(handle)
        return os.open(name, _WRITE, dir_fd=folder)
    except OSError as missing:
        raise ImageDamaged(f"{os.fsdecode(name)!r}: a file was there and is no longer: {missing}") from missing


def _own(target: int | Path, entry: Entry, *, follow_symlinks: bool = True) -> None:
    # Only root may give files away. Where the agent is not root, everything belongs to it on both sides.
    if os.geteuid() == 0:
        os.chown(target, entry.uid, entry.gid, follow_symlinks=follow_symlinks)


@contextlib.contextmanager
def _image_as_it_was_left() -> Iterator[None]:
    """Tell a disk that does not take something, which may pass, from an image that somebody else has changed."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError) as changed:
        raise ImageDamaged(f"somebody else has changed the image on the standby: {changed}") from changed


@contextlib.contextmanager
def _opened(name: bytes, folder: int) -> Iterator[int]:
    descriptor = os.open(name, _READ, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
