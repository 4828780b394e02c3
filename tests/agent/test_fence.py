"""The fence, against real processes: it must hold when everything that could renew it is stopped or dead."""

import configparser
import os
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spot_agent.fence import boot_clock, children
from spot_agent.workload import WorkloadStatus
from spot_optimizer.domain.lease import FENCE_LATENCY_SECONDS, LEASE_SECONDS
from tests.agent.fence_rig import FenceRig, is_alive, is_stopped, moment_of_death, wait_until

USUAL_SECONDS = 0.05

A_FAMILY = """
echo $$ > main
sh -c 'echo $$ > same_group; exec sleep 600' &
setsid sh -c 'echo $$ > own_session; trap "" TERM; sleep 600 & wait' &
setsid sh -c '(setsid sh -c "echo \\$\\$ > orphan; exec sleep 600" &) ; exit 0'
wait
"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[FenceRig]:
    with FenceRig(tmp_path) as rig:
        yield rig


def start_family(rig: FenceRig, deadline: float | None = None) -> list[int]:
    rig.start(A_FAMILY, deadline=deadline)
    return [rig.pids_in(name) for name in ("main", "same_group", "own_session", "orphan")]


def test_a_workload_whose_deadline_is_moved_in_time_lives(rig: FenceRig) -> None:
    pids = start_family(rig, deadline=boot_clock() + 2)
    for _ in range(8):
        rig.fence(boot_clock() + 1)
        time.sleep(0.15)
    assert all(is_alive(pid) for pid in pids)


def test_at_the_deadline_every_descendant_dies_even_in_groups_and_sessions_of_their_own(rig: FenceRig) -> None:
    pids = start_family(rig)
    deadline = boot_clock() + 0.2
    rig.fence(deadline)
    assert deadline <= moment_of_death(*pids) <= deadline + FENCE_LATENCY_SECONDS
    assert rig.hear() == WorkloadStatus(running=False, epoch=1, ended="fenced", code=-signal.SIGKILL)


def test_the_fence_is_usually_far_quicker_than_the_lease_allows_for(rig: FenceRig) -> None:
    latencies = []
    for epoch in range(1, 6):
        rig.start("echo $$ > main; exec sleep 600", epoch=epoch)
        pid = rig.pids_in("main")
        deadline = boot_clock() + 0.1
        rig.fence(deadline, epoch=epoch)
        latencies.append(moment_of_death(pid) - deadline)
        rig.hear()
        (rig.folder / "main").unlink()
    assert statistics.median(latencies) < USUAL_SECONDS


def test_the_fence_holds_when_the_agent_is_killed(rig: FenceRig) -> None:
    pids = start_family(rig)
    deadline = boot_clock() + 0.2
    rig.fence(deadline)
    os.kill(rig.agent_pid, signal.SIGKILL)
    assert deadline <= moment_of_death(*pids) <= deadline + FENCE_LATENCY_SECONDS


def test_the_fence_holds_when_agent_and_workload_are_stopped(rig: FenceRig) -> None:
    pids = start_family(rig)
    deadline = boot_clock() + 0.2
    rig.fence(deadline)
    for pid in (rig.agent_pid, *pids):
        os.kill(pid, signal.SIGSTOP)
    assert deadline <= moment_of_death(*pids) <= deadline + FENCE_LATENCY_SECONDS


@pytest.mark.parametrize("signal_number", [signal.SIGSTOP, signal.SIGKILL])
def test_the_fence_holds_when_the_keeper_itself_is_stopped_or_killed(
    rig: FenceRig, signal_number: signal.Signals
) -> None:
    pids = start_family(rig)
    deadline = boot_clock() + 0.2
    rig.fence(deadline)
    os.kill(keeper_of(rig), signal_number)
    assert moment_of_death(*pids) <= deadline + FENCE_LATENCY_SECONDS
    ended = rig.hear()
    assert ended.running is False
    # A stopped keeper says nothing: the supervisor, which killed everything in its stead, knows why.
    assert ended.ended == ("fenced" if signal_number == signal.SIGSTOP else "exited")


def test_the_fence_holds_when_the_supervisor_is_stopped(rig: FenceRig) -> None:
    pids = start_family(rig)
    deadline = boot_clock() + 0.2
    rig.fence(deadline)
    os.kill(rig.supervisor.pid, signal.SIGSTOP)
    assert deadline <= moment_of_death(*pids) <= deadline + FENCE_LATENCY_SECONDS


def test_the_workload_dies_with_the_supervisor(rig: FenceRig) -> None:
    pids = start_family(rig)
    now = boot_clock()
    rig.supervisor.kill()
    assert moment_of_death(*pids) <= now + 0.2


def test_a_held_workload_stands_still_with_all_its_descendants_until_the_hold_is_moved(rig: FenceRig) -> None:
    pids = start_family(rig, deadline=boot_clock() + 60)
    rig.hold(boot_clock() + 0.2)
    assert not any(is_stopped(pid) for pid in pids)
    wait_until(lambda: all(is_stopped(pid) for pid in pids))
    rig.fence(boot_clock() + 60)
    assert all(is_stopped(pid) for pid in pids), "the deadline is another matter"
    rig.hold(boot_clock() + 60)
    wait_until(lambda: not any(is_stopped(pid) for pid in pids))
    rig.hold(boot_clock() - 1)
    wait_until(lambda: all(is_stopped(pid) for pid in pids))
    rig.hold(None)
    wait_until(lambda: not any(is_stopped(pid) for pid in pids))
    assert all(is_alive(pid) for pid in pids)


def test_a_hold_that_is_moved_in_time_stops_nothing(rig: FenceRig) -> None:
    rig.start("echo $$ > main; while :; do date +%s%N >> beats; sleep 0.01; done")
    main = rig.pids_in("main")
    for _ in range(8):
        rig.hold(boot_clock() + 1)
        time.sleep(0.15)
        assert not is_stopped(main)


def test_a_workload_is_held_when_its_agent_is_killed_and_goes_on_with_the_next_one(rig: FenceRig) -> None:
    pids = start_family(rig, deadline=boot_clock() + 60)
    rig.hold(boot_clock() + 0.3)
    os.kill(rig.agent_pid, signal.SIGKILL)
    wait_until(lambda: all(is_stopped(pid) for pid in pids))
    rig.await_agent()
    assert all(is_stopped(pid) for pid in pids)
    rig.hold(boot_clock() + 60)
    wait_until(lambda: not any(is_stopped(pid) for pid in pids))


def test_what_others_have_stopped_stays_stopped_when_the_hold_ends(rig: FenceRig) -> None:
    """That may be how the workload was frozen."""
    pids = start_family(rig)
    frozen, *others = pids
    os.kill(frozen, signal.SIGSTOP)
    wait_until(lambda: is_stopped(frozen))
    rig.hold(boot_clock())
    wait_until(lambda: all(is_stopped(pid) for pid in pids))
    rig.hold(None)
    wait_until(lambda: not any(is_stopped(pid) for pid in others))
    assert is_stopped(frozen)
    os.kill(frozen, signal.SIGCONT)


def test_the_deadline_kills_a_held_workload(rig: FenceRig) -> None:
    pids = start_family(rig)
    rig.hold(boot_clock())
    deadline = boot_clock() + 0.3
    rig.fence(deadline)
    assert deadline <= moment_of_death(*pids) <= deadline + FENCE_LATENCY_SECONDS
    assert rig.hear().ended == "fenced"


def test_a_held_workload_that_is_to_stop_is_killed_at_once(rig: FenceRig) -> None:
    rig.start("trap 'echo bye > farewell; exit 0' TERM; echo $$ > main; while :; do sleep 0.01; done")
    main = rig.pids_in("main")
    rig.hold(boot_clock())
    wait_until(lambda: is_stopped(main))
    rig.stop(grace_seconds=60)
    assert rig.hear() == WorkloadStatus(running=False, epoch=1, ended="stopped", code=-signal.SIGKILL)
    assert not (rig.folder / "farewell").exists()


def test_a_workload_that_takes_its_time_to_stop_is_killed_when_it_would_be_held(rig: FenceRig) -> None:
    rig.start("trap '' TERM; echo $$ > main; while :; do sleep 0.01; done")
    rig.pids_in("main")
    rig.hold(boot_clock() + 0.3)
    rig.stop(grace_seconds=60)
    assert rig.hear() == WorkloadStatus(running=False, epoch=1, ended="stopped", code=-signal.SIGKILL)


def test_a_hold_for_another_epoch_holds_nothing(rig: FenceRig) -> None:
    rig.start("echo $$ > main; exec sleep 600", epoch=2)
    assert rig.hold(boot_clock(), epoch=1).refusal == "epoch 1 does not run"
    assert not is_stopped(rig.pids_in("main"))


def test_a_workload_without_a_deadline_outlives_its_agent_and_the_next_agent_is_told_of_it(rig: FenceRig) -> None:
    rig.start("exec sleep 600", epoch=7)
    os.kill(rig.agent_pid, signal.SIGKILL)
    assert rig.await_agent() == WorkloadStatus(running=True, epoch=7)
    deadline = boot_clock() + 0.1
    rig.fence(deadline, epoch=7)
    assert rig.hear().ended == "fenced"


def test_the_hooks_of_a_dead_agent_are_dead_before_the_next_agent_starts_and_its_workload_is_not(rig: FenceRig) -> None:
    workload = start_family(rig)
    hook = rig.hook_pid
    os.kill(rig.agent_pid, signal.SIGKILL)
    rig.await_agent()
    assert not is_alive(hook)
    assert all(is_alive(pid) for pid in workload)


def test_the_agent_hears_that_its_workload_exited_and_with_which_status(rig: FenceRig) -> None:
    rig.start("exit 3", epoch=2)
    assert rig.hear() == WorkloadStatus(running=False, epoch=2, ended="exited", code=3)


def test_what_an_exited_workload_left_running_is_killed_before_its_end_is_reported(rig: FenceRig) -> None:
    rig.start("setsid sh -c 'echo $$ > left; exec sleep 600' & while ! [ -s left ]; do :; done")
    left = rig.pids_in("left")
    assert rig.hear().ended == "exited"
    assert not is_alive(left)


def test_stopping_lets_the_workload_end_in_good_order(rig: FenceRig) -> None:
    rig.start("trap 'echo bye > farewell; exit 0' TERM; echo $$ > main; while :; do sleep 0.01; done")
    rig.pids_in("main")
    rig.stop()
    assert rig.hear() == WorkloadStatus(running=False, epoch=1, ended="stopped", code=0)
    assert (rig.folder / "farewell").read_text() == "bye\n"


def test_a_workload_that_does_not_stop_is_killed_after_the_grace(rig: FenceRig) -> None:
    rig.start("trap '' TERM; echo $$ > main; while :; do sleep 0.01; done")
    rig.pids_in("main")
    rig.stop(grace_seconds=0.1)
    assert rig.hear() == WorkloadStatus(running=False, epoch=1, ended="stopped", code=-signal.SIGKILL)


def test_the_deadline_holds_while_a_stop_waits_out_its_grace(rig: FenceRig) -> None:
    rig.start("trap '' TERM; echo $$ > main; while :; do sleep 0.01; done", deadline=boot_clock() + 0.4)
    rig.pids_in("main")
    rig.stop(grace_seconds=60)
    assert rig.hear().ended == "fenced"


def test_a_start_is_refused_while_a_run_has_not_ended(rig: FenceRig) -> None:
    rig.start("exec sleep 600", epoch=1)
    assert rig.start("exec sleep 600", epoch=2).refusal == "the run of epoch 1 has not ended"


def test_a_start_under_an_earlier_epoch_is_refused(rig: FenceRig) -> None:
    rig.start("exit 0", epoch=5)
    rig.hear()
    assert rig.start("exit 0", epoch=4).refusal == "epoch 4 is below 5"


def test_a_start_whose_deadline_has_passed_is_refused(rig: FenceRig) -> None:
    assert rig.start("exit 0", deadline=boot_clock() - 0.01).refusal == "the deadline has passed"


def test_a_fence_for_another_epoch_moves_nothing(rig: FenceRig) -> None:
    rig.start("exec sleep 600", epoch=2, deadline=boot_clock() + 0.3)
    assert rig.fence(None, epoch=1).refusal == "epoch 1 does not run"
    assert rig.hear().ended == "fenced"


def test_sigterm_reaches_the_agent_first_and_the_workload_after_it(rig: FenceRig) -> None:
    rig.start("trap 'exit 0' TERM; echo $$ > main; while :; do sleep 0.01; done")
    main = rig.pids_in("main")
    rig.supervisor.terminate()
    assert rig.hear_line() == b"SIGTERM\n"
    assert rig.supervisor.wait(timeout=5) == 0
    assert not is_alive(main)


def test_nothing_runs_until_an_agent_orders_it(rig: FenceRig) -> None:
    assert rig.look() == WorkloadStatus(running=False, answers="look")
    os.kill(rig.agent_pid, signal.SIGKILL)
    rig.await_agent()
    assert rig.look() == WorkloadStatus(running=False, answers="look")
    assert set(children(rig.supervisor.pid)) == {rig.agent_pid}


def test_the_unit_starts_the_supervisor_alone_and_kills_all_of_it_when_it_hangs() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(Path(__file__).parents[2] / "agent" / "spot-agent.service")
    service = unit["Service"]
    assert "-m spot_agent.supervisor " in service["ExecStart"]
    assert not [name for name in service if name.startswith("ExecStart") and name != "ExecStart"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert service["WatchdogSignal"] == "SIGKILL"
    # SIGKILL reaches the whole control group, and so whatever the supervisor can no longer kill.
    assert (service["KillMode"], service["SendSIGKILL"]) == ("mixed", "yes")
    assert float(service["WatchdogSec"]) <= LEASE_SECONDS
    assert service["Restart"] == "always"


def test_systemd_is_told_of_readiness_of_life_and_of_the_end(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{folder}/notify")
        systemd.settimeout(5)
        told: set[bytes] = set()
        with FenceRig(tmp_path, NOTIFY_SOCKET=f"{folder}/notify", WATCHDOG_USEC="200000") as rig:
            rig.look()
            while told != {b"READY=1", b"WATCHDOG=1"}:
                told.add(systemd.recv(100))
            began = time.monotonic()
            pings = [systemd.recv(100) for _ in range(4)]
            assert set(pings) == {b"WATCHDOG=1"}
            assert time.monotonic() - began < 1
            rig.supervisor.terminate()
            while systemd.recv(100) != b"STOPPING=1":
                pass


def keeper_of(rig: FenceRig) -> int:
    (keeper,) = set(Path(f"/proc/{rig.supervisor.pid}/task/{rig.supervisor.pid}/children").read_text().split()) - {
        str(rig.agent_pid)
    }
    return int(keeper)
