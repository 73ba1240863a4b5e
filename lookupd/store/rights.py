"""Who may do what with a store's files, whatever the umask: its owner writes, the group reads, nobody else looks in.

    folder     2750   setgid: what is made in it belongs to the folder's group
    data.mdb    640   personal data: the loader's user writes, the daemon's reads
    lock.mdb    660   readers write too: each notes there which state it reads
    the rest    640

Files get their rights when they are made; those of an older version stay as they are, and `lookupd doctor` tells.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from lookupd.errors import StoreError

FOLDER_MODE: Final = 0o2750
FILE_MODE: Final = 0o640
LOCK_MODE: Final = 0o660
BACKUP_FOLDER_MODE: Final = 0o750

LOCK_FILE: Final = "lock.mdb"
DATA_FILE: Final = "data.mdb"


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there. Raises OSError."""
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=FOLDER_MODE & 0o777, exist_ok=True)
    _give_to_owner_of(path.parent, path)
    if stat.S_IMODE(path.stat().st_mode) != FOLDER_MODE:
        # A sandbox that forbids setgid refuses this; there the bit is inherited from the folder above.
        with suppress(PermissionError):
            path.chmod(FOLDER_MODE)


def open_file(path: Path, flags: int, mode: int = FILE_MODE) -> int:
    """A descriptor of a file in a store, made with these rights if it is not there. Raises OSError."""
    try:
        file = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        _give_to_owner_of(path.parent, file)
        os.fchmod(file, mode)
    except OSError:
        os.close(file)
        raise
    return file


def make_environment_files(path: Path) -> None:
    """LMDB's two files, empty, unless they are there: it would make both with the same rights. Raises OSError.

    Before LMDB opens them: closing another descriptor of an open lock file would give its locks away.
    """
    for name, mode in ((DATA_FILE, FILE_MODE), (LOCK_FILE, LOCK_MODE)):
        with suppress(FileExistsError):
            os.close(open_file(path / name, os.O_RDWR | os.O_EXCL, mode))


def make_lock_file(path: Path) -> None:
    """The lock file of a store that has only data, such as a copied one. Whoever may not make it is told by LMDB."""
    if not (path / LOCK_FILE).exists():
        with suppress(OSError):
            os.close(open_file(path / LOCK_FILE, os.O_RDWR | os.O_EXCL, LOCK_MODE))


def refuse_without_lock(path: Path) -> None:
    """Refuse a store whose lock file cannot be written because the file system is read-only here.

    LMDB would read it all the same, without a place among the readers: the writer would take the pages that are
    being read for free ones. Raises StoreError.
    """
    with suppress(FileNotFoundError, PermissionError):  # which is told when the store is opened
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise StoreError(
                f"{path}: cannot open the store: read-only here, and each reader notes in {LOCK_FILE} what it reads: "
                "name the folder in ReadWritePaths= of the unit, or mount it for writing"
            )


def _give_to_owner_of(folder: Path, made: Path | int) -> None:
    """What root makes in the folder of the loader's user is that user's, who could not change it otherwise."""
    if os.geteuid() == 0:
        like = folder.stat()
        if like.st_uid:
            os.chown(made, like.st_uid, like.st_gid)
