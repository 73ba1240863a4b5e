"""The units: systemd takes them without a word, they score, and what they name is what the program does."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from lookupd.config import read_config
from lookupd.doctor import kernel
from lookupd.errors import ConfigError
from lookupd.limits import CONNECTIONS_MAX, DRAIN_SECONDS, UDP_RECEIVE_BUFFER_BYTES
from lookupd.socket_units import configured, drop_in, held
from lookupd.units import parse_size
from tests.conftest import Workbench, run_cli
from tests.sandbox import settings

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
SAMPLE = """
[listen]
npq  = ["udp://127.0.0.1:4700", "tcp://127.0.0.1:4700"]
pdb  = ["udp://127.0.0.1:5574"]
enum = ["udp://127.0.0.1:5353", "tcp://127.0.0.1:5353"]
sip  = ["udp://127.0.0.1:5070", "tcp://127.0.0.1:5070"]
http = "http://127.0.0.1:9474"
"""
EXPOSURE_MAX = 1.5

needs_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs the package systemd")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root folder with systemd's own units, ours as installed, and programs where ours look for them."""
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    ours = tmp_path / "etc/systemd/system"
    shutil.copytree(UNITS, ours, ignore=shutil.ignore_patterns("lookupd.*"))
    (ours / "lookupd@b.socket.d").mkdir()
    shutil.copy(ours / "lookupd@a.socket.d/listen.conf", ours / "lookupd@b.socket.d")
    for program in ("opt/lookupd/bin/lookupd", "opt/lookupd/bin/lookupd-loader", "bin/kill"):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return tmp_path


def verify(machine: Path, *units: str) -> tuple[int, str]:
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--root={machine}", *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


@needs_analyze
def test_systemd_finds_no_fault_in_any_unit(machine: Path) -> None:
    files = [path.name for path in UNITS.glob("lookupd*") if path.suffix in {".service", ".socket", ".target"}]
    assert len(files) >= 6
    instances = [name.replace("@.", f"@{replica}.") for name in files for replica in "ab"]
    assert verify(machine, *instances) == (0, "")


@needs_analyze
def test_verify_finds_the_faults_that_it_should(machine: Path) -> None:
    unit = machine / "etc/systemd/system/lookupd@.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSeconds="))
    code, said = verify(machine, "lookupd@a.service")
    assert (code, "Unknown key name 'WatchdogSeconds'" in said or "Unknown key 'WatchdogSeconds'" in said) == (1, True)
    (machine / "opt/lookupd/bin/lookupd-loader").unlink()
    code, said = verify(machine, "lookupd-sync@a.service")
    assert (code, "lookupd-loader" in said) == (1, True)


@needs_analyze
def test_socket_unit_without_addresses_of_the_configuration_does_not_start(machine: Path) -> None:
    code, said = verify(machine, "lookupd@c.socket")
    assert (code, "no Listen setting" in said) == (1, True)


@needs_analyze
@pytest.mark.parametrize("service", SERVICES)
def test_service_leaves_little_to_attack(service: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={10 * EXPOSURE_MAX:g}"]
    done = subprocess.run([*command, str(UNITS / service)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    (score,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert float(score) <= EXPOSURE_MAX


@pytest.mark.parametrize("service", SERVICES)
def test_service_has_no_capability_and_never_gives_up(service: str) -> None:
    of = settings(UNITS / service)
    assert of["CapabilityBoundingSet"] == of["AmbientCapabilities"] == [""]
    assert (of["Restart"], of["StartLimitIntervalSec"]) == (["always"], ["0"])
    assert of["User"] == (
        ["lookupd"] if service in {"lookupd@.service", "lookupd-probe@.service"} else ["lookupd-sync"]
    )
    assert of["Group"] == ["lookupd"]
    # systemd would give the folder to the unit that starts last.
    assert "StateDirectory" not in of
    assert of["ReadWritePaths"] == ["/var/lib/lookupd"]


@pytest.mark.parametrize("service", SERVICES)
def test_commands_of_a_service_are_commands_of_ours(service: str) -> None:
    of = settings(UNITS / service)
    for line in (*of["ExecStart"], *of.get("ExecReload", [])):
        program, command, *options = line.split()
        if program == "/bin/kill":
            assert [command, *options] == ["-HUP", "$MAINPID"]
            continue
        if command == "relay":
            continue  # of the fleet's own package
        module = {"lookupd": "lookupd.cli", "lookupd-loader": "loader.cli"}[Path(program).name]
        told = run_cli(module, command, "--help")
        assert told.returncode == 0
        assert all(option in told.stdout for option in options if option.startswith("--"))


def test_units_agree_with_the_bounds_of_the_program() -> None:
    of_socket, of_service = settings(UNITS / "lookupd@.socket"), settings(UNITS / "lookupd@.service")
    assert parse_size(of_socket["ReceiveBuffer"][0].replace("M", "MiB")) == UDP_RECEIVE_BUFFER_BYTES
    assert int(of_socket["Backlog"][0]) == CONNECTIONS_MAX
    assert int(of_service["TimeoutStopSec"][0]) > 2 * DRAIN_SECONDS
    assert not [name for name in of_socket if name.startswith("Listen")]  # said once, in the configuration


def test_open_files_of_the_unit_are_enough_for_the_largest_configuration(workbench: Workbench) -> None:
    listen = SAMPLE.partition("[listen]")[2]
    config = read_config(workbench.config('[[client]]\nname = "x"\nsources = ["127.0.0.1"]', listen=listen))
    needed = kernel.files_needed(config)
    assert int(settings(UNITS / "lookupd@.service")["LimitNOFILE"][0]) >= needed
    assert needed > CONNECTIONS_MAX


# -- users, folders, kernel --------------------------------------------------------------------------------


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A root folder in which users and folders were made as on a machine."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make what belongs to others")
    for folder in ("etc", "var/lib"):
        (tmp_path / folder).mkdir(parents=True)
    for kind in ("sysusers", "tmpfiles"):
        rules = tmp_path / f"usr/lib/{kind}.d"
        rules.mkdir(parents=True)
        shutil.copy(UNITS / f"lookupd.{kind}", rules / "lookupd.conf")
    tmpfiles = ["systemd-tmpfiles", "--create", "lookupd.conf"]
    for command in (["systemd-sysusers"], tmpfiles, tmpfiles):  # as at each start of the machine
        done = subprocess.run([*command, f"--root={tmp_path}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return tmp_path


def test_users_share_a_group_and_folders_are_theirs_alone(prepared: Path) -> None:
    users = {line.split(":")[0]: line.split(":") for line in (prepared / "etc/passwd").read_text().splitlines()}
    groups = dict(line.split(":")[::2] for line in (prepared / "etc/group").read_text().splitlines())
    (daemon, loader), group = (int(users[name][2]) for name in ("lookupd", "lookupd-sync")), int(groups["lookupd"])
    assert daemon != loader
    assert {int(users[name][3]) for name in ("lookupd", "lookupd-sync")} == {group}
    assert all(users[name][6].endswith("nologin") for name in ("lookupd", "lookupd-sync"))

    def rights(path: str) -> tuple[int, int, int]:
        found = (prepared / path).stat()
        return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)

    assert rights("etc/lookupd") == (0, group, 0o750)
    assert rights("etc/lookupd/keys") == (loader, group, 0o700)
    assert rights("var/lib/lookupd") == (loader, group, 0o2750)
    for replica in "ab":
        assert rights(f"var/lib/lookupd/{replica}-usage") == (daemon, group, 0o750)
        assert rights(f"var/lib/lookupd/{replica}-audit") == (daemon, group, 0o700)


def test_sysctls_that_we_ship_are_those_that_doctor_names(tmp_path: Path) -> None:
    shipped = dict(re.findall(r"(?m)^([a-z_.]+) = ([0-9]+)$", (UNITS / "lookupd.sysctl").read_text()))
    assert shipped == {name: str(good) for name, (_, good, _) in kernel.SYSCTLS.items()}
    for name, value in shipped.items():
        path = tmp_path / name.replace(".", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    assert {check.result for check in kernel.look_at_sysctls(tmp_path)} == {"ok"}


# -- sockets -----------------------------------------------------------------------------------------------


def test_example_is_what_the_command_prints(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text(SAMPLE)
    told = run_cli("lookupd.cli", "sockets", "--config", config)
    assert told.returncode == 0
    assert told.stdout == (UNITS / "lookupd@a.socket.d/listen.conf").read_text()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text('[listen]\nnpq = ["udp://[2001:db8::7]:4700", "tcp://0.0.0.0:4700"]\nhttp = "http://[::1]:80"\n')
    settings = read_config(config)
    folder = tmp_path / "units"
    (folder / "lookupd@x.socket.d").mkdir(parents=True)
    assert held("x", [folder]) is None
    shutil.copy(UNITS / "lookupd@.socket", folder)
    assert held("x", [folder]) == frozenset()
    (folder / "lookupd@x.socket.d/listen.conf").write_text(drop_in(settings))
    expected = {"udp [2001:db8::7]:4700", "tcp 0.0.0.0:4700", "tcp [::1]:80"}
    assert held("x", [tmp_path / "none", folder]) == configured(settings) == expected


def test_an_empty_value_takes_earlier_addresses_away(tmp_path: Path) -> None:
    (tmp_path / "lookupd@x.socket.d").mkdir()
    (tmp_path / "lookupd@x.socket").write_text("[Socket]\nListenStream=127.0.0.1:1\n")
    (tmp_path / "lookupd@x.socket.d/10.conf").write_text("[Socket]\nListenDatagram=\nListenDatagram = [0:0::1]:2\n")
    (tmp_path / "lookupd@x.socket.d/20.conf").write_text("[Socket]\nListenStream=/run/x\n#ListenStream=127.0.0.1:3\n")
    assert held("x", [tmp_path]) == {"udp [::1]:2", "tcp /run/x"}


@pytest.mark.parametrize("listen", ['npq = ["udp://127.0.0.1:0"]', ""])
def test_sockets_that_nobody_can_hold_are_refused(tmp_path: Path, listen: str) -> None:
    config = tmp_path / "x.toml"
    config.write_text(f"[listen]\n{listen}\n")
    with pytest.raises(ConfigError, match="listen"):
        drop_in(read_config(config))
    told = run_cli("lookupd.cli", "sockets", "--config", config)
    assert (told.returncode, told.stdout) == (3, "")
