"""Two users and one group: the daemon reads the store and cannot change it, nobody else looks in, secrets are secret.

What the rights should be is said in `store.rights`; lists of access beyond owner, group and mode are not looked at.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from lookupd.doctor.check import Account, Check, Subject, mode_of, owner_name
from lookupd.settings import Config
from lookupd.store.rights import DATA_FILE, FILE_MODE, FOLDER_MODE, LOCK_FILE, LOCK_MODE

_WRITER = "lookupd-sync"


def look(subject: Subject) -> Iterator[Check]:
    """All of it. What may not be looked at for want of rights is told as such."""
    account = subject.account
    if account is None:
        yield Check(
            "user",
            "fail",
            f"there is no user {subject.user!r} on this machine",
            "make it with systemd-sysusers (systemd/lookupd.sysusers), or name the daemon's with --user",
        )
    elif account.uid == 0:
        yield Check("user", "warn", "the daemon would run as root", "User=lookupd, as in systemd/lookupd@.service")
    else:
        yield Check("user", "ok", f"the daemon's is {account.name}, number {account.uid}")
    yield from _of_configuration(subject.config_path, account)
    store = subject.config.store_path
    try:
        if (store / DATA_FILE).is_file():
            yield from _of_store(store, account)
    except PermissionError as error:
        yield Check("store rights", "warn", f"{error.filename}: may not be looked at by us", "run doctor as root")
    yield from _of_secrets(subject.config, account)


def _of_configuration(path: Path, account: Account | None) -> Iterator[Check]:
    if account is not None and not (account.reaches(path) and account.may(path, "r")):
        yield Check(
            "configuration rights", "fail", f"{path}: {account.name} may not read it", _chmod(path, 0o640, path)
        )
    elif mode_of(path) & 0o022 or (account is not None and account.uid and path.stat().st_uid == account.uid):
        way_out = f"chown root {_quoted(path)}; {_chmod(path, mode_of(path) & ~0o022)}"
        yield Check("configuration rights", "warn", f"{path}: others than root may change it", way_out)
    else:
        yield Check("configuration rights", "ok", f"only {owner_name(path.stat().st_uid)} may change {path}")


# -- the store ---------------------------------------------------------------------------------------------


def _of_store(store: Path, account: Account | None) -> Iterator[Check]:
    found = [
        *_needs(store, account),
        *_must_not(store, account),
        *_open_to_others(store),
        *_owned_by_two(store),
    ]
    yield from found or [Check("store rights", "ok", f"{store}: the daemon reads it, its owner alone writes it")]


def _needs(store: Path, account: Account | None) -> Iterator[Check]:
    """What the daemon cannot do without."""
    if account is None:
        return
    data, lock = store / DATA_FILE, store / LOCK_FILE
    if not account.reaches(data):
        closed = next(folder for folder in reversed(data.absolute().parents) if not account.may(folder, "x"))
        yield Check("store rights", "fail", f"{closed}: {account.name} may not look into it", _mend_folder(closed))
    if not account.may(data, "r"):
        yield Check("store rights", "fail", f"{data}: {account.name} may not read it", _chmod(data, FILE_MODE, store))
    if lock.exists() and not account.may(lock, "rw"):
        message = f"{lock}: {account.name} may not write it, and each reader notes there what it reads"
        yield Check("store rights", "fail", message, _chmod(lock, LOCK_MODE, store))
    elif not lock.exists() and not account.may(store, "wx"):
        message = f"{lock}: missing, and {account.name} may not make it"
        yield Check("store rights", "fail", message, f"lookupd status --store {_quoted(store)}, as the store's owner")


def _must_not(store: Path, account: Account | None) -> Iterator[Check]:
    """What a fault of the daemon could spoil."""
    if account is None or account.uid == 0:
        return
    for path in (store, store / DATA_FILE):
        if account.may(path, "w"):
            message = f"{path}: {account.name}, who only has to read, may change it"
            mode = FOLDER_MODE if path == store else FILE_MODE
            way_out = f"give the store to the loader's user: chown -R {_WRITER}:lookupd {_quoted(store)}"
            yield Check("store rights", "warn", message, f"{way_out}\n{_chmod(path, mode)}")
            return


def _open_to_others(store: Path) -> Iterator[Check]:
    """Stores of an older version were."""
    if not mode_of(store) & 0o007:
        return
    files = [path for path in sorted(store.iterdir()) if path.is_file() and mode_of(path) & 0o007]
    commands = [_chmod(store, FOLDER_MODE)]
    commands += [_chmod(path, LOCK_MODE if path.name == LOCK_FILE else FILE_MODE) for path in files]
    yield Check(
        "store rights",
        "warn",
        f"{store}: every user of the machine may look into it (mode {mode_of(store):o}), and it holds personal data",
        "\n".join(commands),
    )


def _owned_by_two(store: Path) -> Iterator[Check]:
    """A command that root ran there, say: the loader could not change what it left."""
    owner = (store / DATA_FILE).stat().st_uid
    others = [path for path in (store, *sorted(store.iterdir())) if path.stat().st_uid != owner]
    if others:
        named = ", ".join(str(path) for path in others[:5])
        way_out = f"chown {owner_name(owner)} {' '.join(_quoted(path) for path in others[:5])}"
        message = f"{named}: not {owner_name(owner)}'s, who owns the data: the loader may not be able to change it"
        yield Check("store rights", "warn", message, way_out)


# -- secrets -----------------------------------------------------------------------------------------------


def secret_files(config: Config) -> Iterator[tuple[str, Path]]:
    """Setting and file of whatever logs us in somewhere."""
    for name, feed in config.feeds.items():
        for key in ("ssh_key", "password_file"):
            if file := getattr(feed, key):
                yield f"feed.{name}.{key}", Path(file)
    for key in ("password_file", "key"):
        if file := getattr(config.jetstream, key):
            yield f"jetstream.{key}", Path(file)


def _of_secrets(config: Config, account: Account | None) -> Iterator[Check]:
    named = list(secret_files(config))
    found = [check for setting, path in named for check in _of_secret(setting, path, account)]
    yield from found
    if named and not found:
        yield Check("secrets", "ok", f"{len(named)} files, each for its owner alone")


def _of_secret(setting: str, path: Path, account: Account | None) -> Iterator[Check]:
    try:
        mode = mode_of(path)
        if mode & 0o077:
            message = f"{setting}: {path}: others may read it (mode {mode:o}): the loader refuses it"
            yield Check("secrets", "fail", message, _chmod(path, 0o600))
        elif account is not None and account.uid and path.stat().st_uid == account.uid:
            message = f"{setting}: {path}: belongs to {account.name}, the daemon, which needs no secret"
            yield Check("secrets", "warn", message, f"chown {_WRITER} {_quoted(path)}")
    except PermissionError:
        yield Check("secrets", "warn", f"{setting}: {path}: may not be looked at by us", "run doctor as root")
    except OSError as error:
        yield Check("secrets", "fail", f"{setting}: {path}: {error.strerror}", "put it there, for the loader's user")


# -- commands to copy --------------------------------------------------------------------------------------


def _chmod(path: Path, mode: int, of_group: Path | None = None) -> str:
    """of_group: also give it to the daemon's group, and what lies in it where it is a store."""
    group = "" if of_group is None else f"chgrp {'-R ' if of_group.is_dir() else ''}lookupd {_quoted(of_group)}; "
    return f"{group}chmod {mode:o} {_quoted(path)}"


def _mend_folder(folder: Path) -> str:
    return f"chgrp lookupd {_quoted(folder)}; chmod g+x {_quoted(folder)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
