"""Each feed: signed by a key that lasts, from a source that is there, and not silent for too long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from lookupd.doctor.check import Account, Check, Subject, find_account, owner_name
from lookupd.limits import FEED_SILENT_SECONDS, KEY_WARNING_SECONDS
from lookupd.settings import Config, FeedSettings
from lookupd.units import format_time, parse_time


def look(subject: Subject) -> Iterator[Check]:
    """Every feed of the configuration."""
    config, now = subject.config, int(time.time())
    if not config.feeds:
        yield Check("feeds", "warn", "none is configured: the store stays as it is", "name one, such as [feed.main]")
    for name, feed in config.feeds.items():
        yield of_keys(name, feed, now)
        if feed.source.startswith("dir://"):
            yield _of_folder(name, feed, _loader_account(config))
        if subject.store is not None:
            position = subject.store.state.feeds.get(name)
            yield of_age(name, None if position is None else now - position.confirmed_at, config)


def of_keys(name: str, feed: FeedSettings, now: int) -> Check:
    """What counts is the key that lasts longest."""
    title = f"feed {name} key"
    if not feed.public_keys:
        if feed.format != "lookupd":
            return Check(title, "ok", f"files of format {feed.format} carry no signature")
        message = "no public_key: whoever can write to the source decides where calls go"
        return Check(title, "warn", message, f"feed.{name}.public_key, from the feed's sender")
    ends = [key.partition(" until ")[2] for key in feed.public_keys]
    if not all(ends):
        return Check(title, "ok", "signed")
    last = max(parse_time(end) for end in ends)
    way_out = f"ask the sender for the next key, and name both in feed.{name}.public_key"
    if last <= now:
        return Check(title, "fail", f"expired on {format_time(last)}: no file is taken any more", way_out)
    if last - now < KEY_WARNING_SECONDS:
        return Check(title, "warn", f"expires on {format_time(last)}, in {(last - now) // 86_400} days", way_out)
    return Check(title, "ok", f"signed, until {format_time(last)}")


def _loader_account(config: Config) -> Account | None:
    """Whoever owns the store."""
    try:
        return find_account(str(config.store_path.stat().st_uid))
    except OSError:
        return None


def _of_folder(name: str, feed: FeedSettings, account: Account | None) -> Check:
    title, folder = f"feed {name} source", Path(feed.source.removeprefix("dir://"))
    wanted = "rwx" if feed.acknowledge != "no" else "rx"
    try:
        if not folder.is_dir():
            return Check(title, "fail", f"{folder}: there is no such folder", "make it, or mend feed.source")
        if account is not None and not (account.reaches(folder) and account.may(folder, wanted)):
            what = "read it and put acknowledgements there" if "w" in wanted else "read it"
            owner = owner_name(account.uid)
            message = f"{folder}: {owner}, who owns the store, may not {what}"
            return Check(title, "fail", message, f"chown {owner} {folder}, or give its group the right")
    except PermissionError:
        return Check(title, "warn", f"{folder}: may not be looked at by us", "run doctor as root")
    return Check(title, "ok", str(folder))


def of_age(name: str, age: int | None, config: Config) -> Check:
    """age: seconds since a file of the feed was last confirmed, None if none ever was."""
    title, stale_after = f"feed {name} age", config.limits.stale_after
    way_out = f"systemctl status lookupd-sync@{config.replica.name}; docs/operations/gap.md"
    if age is None:
        return Check(title, "fail", "no file of it was ever applied", way_out)
    if stale_after and age > stale_after:
        message = f"{age} s, more than limits.stale_after of {stale_after:g} s: every answer is `unavailable`"
        return Check(title, "fail", message, way_out)
    if age > max(FEED_SILENT_SECONDS, 10 * config.feeds[name].poll):
        return Check(
            title, "warn", f"no file for {age // 3600} hours, and the source is asked every few seconds", way_out
        )
    return Check(title, "ok", f"{age} s since the last file")
