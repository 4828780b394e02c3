"""Getting things onto the disk, not only into the kernel's memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# Each fsync of a fresh file is a commit of the file system's journal; above this many, one sync of all of it is
# cheaper.
_FEW: Final = 32
_libc = ctypes.CDLL(None, use_errno=True)


def sync_folder(folder: Path) -> None:
    """Make additions to, renames in and removals from a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(descriptor: int) -> None:
    """Make everything on the file system of an open file durable."""
    if _libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync_entries(folder: int, names: Iterable[bytes | str], *, flags: int = 0) -> None:
    """Make the content and metadata of entries of a folder durable.

    Args:
        folder: Descriptor of the folder.
        names: Of files in it.
        flags: More flags to open them with.
    """
    listed = list(names)
    if len(listed) > _FEW:
        sync_file_system(folder)
        return
    for name in listed:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_durably(file: Path, parts: Iterable[bytes]) -> None:
    """Write a new file and make its content durable; its name is durable after `sync_folder`."""
    with file.open("wb") as out:
        out.writelines(parts)
        out.flush()
        os.fsync(out.fileno())
