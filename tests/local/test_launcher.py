from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from local import LocalAws
from local.instances import RUN_VARIABLE
from local.launcher import LocalAwsFailed
from local.leftovers import clean_up_after_others, runs_root
from local.processes import ProcessIdentity, carrying, end_all
from tests.local.conftest import Builder, eventually

REPOSITORY = Path(__file__).parents[2]

OWNER = """
import sys, time
from local import LocalAws
aws = LocalAws()
aws.market.set_boot_seconds(0)
aws.market.register_image("ami-1", ["sh", "-c", "setsid sleep 600 & sleep 600"])
aws.client("ec2").run_instances(ImageId="ami-1", InstanceType="t3.nano", MinCount=1, MaxCount=1)
while not (aws.market.instances()[0].pids):
    time.sleep(0.02)
print(aws.folder, flush=True)
time.sleep(600)
"""


@pytest.fixture
def owner() -> subprocess.Popen[str]:
    """Another process that owns a local AWS with a running instance."""
    return subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)


def test_nothing_is_left_after_stop() -> None:
    with LocalAws() as aws:
        run, folder = aws.folder.name, aws.folder
        Builder(aws).an_instance(image=Builder(aws).an_image("import time; time.sleep(600)"))
        Builder(aws).invoke(Builder(aws).a_function("def handle(event, context): return 1"))
        assert len(carrying(RUN_VARIABLE, run)) >= 4
    assert carrying(RUN_VARIABLE, run) == []
    assert not folder.exists()


def test_only_loopback_is_bound() -> None:
    with LocalAws() as aws:
        Builder(aws).an_instance(image=Builder(aws).an_image("import time; time.sleep(600)"))
        sockets = {str(each.readlink()) for pid in carrying(RUN_VARIABLE, aws.folder.name) for each in links(pid.pid)}
        listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        bound = {
            fields[1].partition(":")[0]
            for fields in listening
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets
        }
        assert bound
        assert all(address.endswith("7F") for address in bound)  # little-endian 127.x.y.z
        ours6 = [
            line
            for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]
            if f"socket:[{line.split()[9]}]" in sockets
        ]
        assert ours6 == []


def links(pid: int) -> list[Path]:
    try:
        return [each for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    except OSError:
        return []


def test_two_local_aws_do_not_meet(aws: LocalAws) -> None:
    with LocalAws(region="eu-west-1", account_id="210987654321") as other:
        assert other.client("sts").get_caller_identity()["Account"] == "210987654321"
        zones = {each["AvailabilityZone"] for each in other.client("ec2").describe_subnets()["Subnets"]}
        assert zones == {"eu-west-1a", "eu-west-1b", "eu-west-1c"}
        mine = Builder(aws).an_instance().private_address
        theirs = (
            Builder(other).an_instance(image=Builder(other).an_image("import time; time.sleep(600)")).private_address
        )
        assert mine.split(".")[1] != theirs.split(".")[1]


def test_an_owners_death_ends_its_aws(owner: subprocess.Popen[str]) -> None:
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    owner.kill()
    owner.wait()
    eventually(lambda: not carrying(RUN_VARIABLE, folder.name))
    eventually(lambda: not folder.exists())


def recorded(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """The processes that a run has written down, by name: id and start of each."""
    found: dict[str, list[tuple[int, str]]] = json.loads((folder / "state.json").read_text())
    return found


def test_the_next_start_cleans_up_after_everything_was_killed(owner: subprocess.Popen[str]) -> None:
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    # Everything that could tidy up dies at the same moment, the guards included; only instances live on.
    # A guard is recorded a moment after its instance runs.
    state = eventually(lambda: found if (found := recorded(folder)).get("guards") else None)
    for pid, _ in state["server"] + state["guards"]:
        os.kill(pid, signal.SIGSTOP)
    owner.kill()
    owner.wait()
    for pid, _ in state["guards"] + state["server"]:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert carrying(RUN_VARIABLE, folder.name) != []
    assert folder.exists()
    with LocalAws():
        assert carrying(RUN_VARIABLE, folder.name) == []
        assert not folder.exists()


def test_a_living_run_is_not_cleaned_up(aws: LocalAws) -> None:
    clean_up_after_others()
    assert aws.folder.exists()
    assert aws.client("sts").get_caller_identity()["Account"] == aws.account_id


def test_levers_need_the_runs_token(aws: LocalAws) -> None:
    request = urllib.request.Request(
        f"{aws.endpoint_url}/_local/stop", data=b"{}", headers={"X-Local-Token": "guessed"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


def test_another_process_can_attach_and_stop_it(owner: subprocess.Popen[str]) -> None:
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    attached = LocalAws.attach(folder.name)
    assert [each.state for each in attached.market.instances()] == ["running"]
    attached.stop()
    eventually(lambda: not folder.exists())
    owner.kill()
    owner.wait()


def test_attaching_to_nothing_says_what_to_do() -> None:
    with pytest.raises(LocalAwsFailed, match="python -m local up"):
        LocalAws.attach("no-such-run")


def test_an_identity_is_not_fooled_by_a_reused_pid() -> None:
    me = ProcessIdentity.of(os.getpid())
    assert me is not None
    assert me.is_alive()
    assert not ProcessIdentity(me.pid, me.started + 1).is_alive()
    end_all([ProcessIdentity(me.pid, me.started + 1)])


def test_the_endpoint_is_free_again_after_stop() -> None:
    with LocalAws() as aws:
        port = int(aws.endpoint_url.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    assert runs_root().name.startswith("spot-optimizer-local-")
