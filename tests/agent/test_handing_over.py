"""Two real agents, with real links, hooks and fences, against the control plane's real decisions."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spot_optimizer.domain import lease
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.replicas import ReplicaState
from tests.agent.control_rig import ControlRig
from tests.agent.fence_rig import is_alive, is_stopped, moment_of_death, wait_until
from tests.agent.instance_rig import InstanceRig, acknowledged, await_writes

pytestmark = pytest.mark.slow


@pytest.fixture
def control() -> Iterator[ControlRig]:
    with ControlRig() as control:
        yield control


@contextmanager
def a_ready_pair(
    control: ControlRig, folder: Path, *, hooks: str = "freeze"
) -> Iterator[tuple[InstanceRig, InstanceRig]]:
    with InstanceRig(folder, 1, control.url, hooks=hooks) as primary:
        wait_until(lambda: control.serves(1), 20)
        control.expect_replica()
        with InstanceRig(folder, 2, control.url, join=True, hooks=hooks) as standby:
            wait_until(lambda: control.replica.status is ReplicaState.READY, 30)
            yield primary, standby


def in_two_minutes() -> str:
    return (datetime.now(UTC) + timedelta(minutes=2)).isoformat()


def lost_writes(folder: Path) -> list[int]:
    """Numbers that were acknowledged under one epoch, and given again under the next: the next did not know of them."""
    writes = acknowledged(folder)
    first_of_next = min(number for number, epoch, _ in writes if epoch == 2)
    return [number for number, epoch, _ in writes if epoch == 1 and number >= first_of_next]


@pytest.mark.parametrize("hooks", ["freeze", "stop only"])
def test_a_handover_on_notice_loses_no_write(control: ControlRig, tmp_path: Path, hooks: str) -> None:
    with a_ready_pair(control, tmp_path, hooks=hooks) as (primary, standby):
        primary.metadata.notice(in_two_minutes())
        wait_until(lambda: control.calls_to("termination-imminent"))
        control.open_handover()
        wait_until(lambda: control.serves(2), 20)
        await_writes(tmp_path, epoch=2)
        assert lost_writes(tmp_path) == []
        assert control.agent.primary_instance_id == standby.instance_id

        # The old primary's part is over: its workload ends, and it tells what it has to tell before AWS takes it.
        wait_until(lambda: control.uploads)
        assert primary.logged("workload ended")
        (_, tail), *_ = control.uploads
        assert b'"message": "interruption notice"' in tail
        wait_until(lambda: control.calls_to("heartbeat")[-1]["epoch"] == 2)


def test_roles_are_changed_back_and_forth_and_only_what_differs_is_sent(control: ControlRig, tmp_path: Path) -> None:
    """No process is started anew, and no state goes over the wire twice."""
    ballast = 4_000_000
    with a_ready_pair(control, tmp_path) as pair:
        by_id = {rig.instance_id: rig for rig in pair}
        (pair[0].disk / "image" / "ballast").write_bytes(os.urandom(ballast))
        agents = {rig.instance_id: rig.agent_pid() for rig in pair}
        for epoch in (2, 3, 4):
            source = by_id[control.agent.primary_instance_id]
            if epoch == 2:
                wait_until(lambda: (pair[1].disk / "image" / "ballast").exists(), 20)
            control.open_handover()
            wait_until(lambda epoch=epoch: control.serves(epoch), 20)
            control.demote_old_primary()
            wait_until(lambda: control.replica.status is ReplicaState.READY, 30)
            serving = by_id[control.agent.primary_instance_id]
            assert serving is not source
            sent = serving.logged("the standby holds the state")[-1]
            assert all((rig.disk / "image" / "ballast").stat().st_size == ballast for rig in pair)
            assert sent["sent_bytes"] < ballast / 50, "the old primary holds the final generation already"
            await_writes(tmp_path, epoch=epoch)
        numbers = [number for number, _, _ in acknowledged(tmp_path)]
        assert numbers == list(range(1, len(numbers) + 1)), "every acknowledged write is known under each later epoch"
        assert agents == {rig.instance_id: rig.agent_pid() for rig in pair}


def test_a_demoted_primary_that_is_restarted_still_holds_its_state(control: ControlRig, tmp_path: Path) -> None:
    with a_ready_pair(control, tmp_path) as (old, new):
        control.open_handover()
        wait_until(lambda: control.serves(2), 20)
        os.kill(old.agent_pid(), signal.SIGKILL)
        control.demote_old_primary()
        wait_until(lambda: control.replica.status is ReplicaState.READY, 30)
        assert old.logged("the live state is held as an image")
        control.open_handover()
        wait_until(lambda: control.serves(3), 20)
        await_writes(tmp_path, epoch=3)
        numbers = [number for number, _, _ in acknowledged(tmp_path)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert not new.logged("what the standby holds is not complete; a full generation is needed")


def test_a_handover_that_is_aborted_thaws_the_workload_under_the_same_epoch(
    control: ControlRig, tmp_path: Path
) -> None:
    with a_ready_pair(control, tmp_path) as (primary, standby):
        os.kill(standby.agent_pid(), signal.SIGSTOP)
        control.open_handover()
        wait_until(lambda: primary.logged("workload frozen"))
        wait_until(lambda: control.agent.handover_state is HandoverState.ABORTED, 20)
        before = len(acknowledged(tmp_path))
        wait_until(lambda: len(acknowledged(tmp_path)) > before + 10, 20)
        assert {epoch for _, epoch, _ in acknowledged(tmp_path)} == {1}


def test_a_primary_that_is_stopped_altogether_is_dead_when_its_standby_serves(
    control: ControlRig, tmp_path: Path
) -> None:
    with a_ready_pair(control, tmp_path) as (primary, _):
        workload = primary.workload_pid()
        os.kill(primary.agent_pid(), signal.SIGSTOP)
        wait_until(lambda: control.calls_to("create-emergency-replica"), 20)
        control.open_handover()
        wait_until(lambda: control.serves(2), 20)
        assert not is_alive(workload)
        writes = acknowledged(tmp_path)
        assert max(at for _, epoch, at in writes if epoch == 1) < min(at for _, epoch, at in writes if epoch == 2)


def test_a_workload_whose_agent_is_silent_is_held_and_goes_on_when_it_is_back(
    control: ControlRig, tmp_path: Path
) -> None:
    with a_ready_pair(control, tmp_path) as (primary, _):
        workload = primary.workload_pid()
        os.kill(primary.agent_pid(), signal.SIGSTOP)
        silent_at = time.time()
        wait_until(lambda: is_stopped(workload), 10)
        held_at = time.time()
        os.kill(primary.agent_pid(), signal.SIGCONT)
        wait_until(lambda: not is_stopped(workload), 10)
        await_writes(tmp_path, epoch=1)
        assert is_alive(workload)
        assert held_at - silent_at <= lease.HOLD_SECONDS + lease.FENCE_LATENCY_SECONDS


def test_a_workload_whose_agent_is_killed_goes_on_with_the_next_one(control: ControlRig, tmp_path: Path) -> None:
    with a_ready_pair(control, tmp_path) as (primary, _):
        workload = primary.workload_pid()
        os.kill(primary.agent_pid(), signal.SIGKILL)
        wait_until(lambda: len(primary.logged("linked to the standby")) == 2, 10)
        before = len(acknowledged(tmp_path))
        wait_until(lambda: len(acknowledged(tmp_path)) > before + 20, 20)
        assert {epoch for _, epoch, _ in acknowledged(tmp_path)} == {1}
        # On a machine that starts the agent for longer than the lease the fence is right to end it.
        assert is_alive(workload) or primary.logged("workload ended")[0]["reason"] == "fenced"


def test_a_standby_whose_agent_is_killed_comes_back_and_takes_over(control: ControlRig, tmp_path: Path) -> None:
    with a_ready_pair(control, tmp_path) as (primary, standby):
        os.kill(standby.agent_pid(), signal.SIGKILL)
        wait_until(lambda: len(standby.logged("agent begins")) == 2, 20)
        wait_until(lambda: control.replica.readiness > 1 and control.replica.status is ReplicaState.READY, 30)
        primary.metadata.notice(in_two_minutes())
        control.open_handover()
        wait_until(lambda: control.serves(2), 20)
        await_writes(tmp_path, epoch=2)
        assert lost_writes(tmp_path) == []


def test_sigterm_stops_the_workload_and_ships_what_it_wrote_last(control: ControlRig, tmp_path: Path) -> None:
    with a_ready_pair(control, tmp_path) as (primary, standby):
        workload = primary.workload_pid()
        assert primary.terminate() == 0
        assert moment_of_death(workload)
        last, _, _ = acknowledged(tmp_path)[-1]
        # One more may have been written, and not acknowledged.
        wait_until(lambda: int((standby.disk / "image" / "numbers").read_text().split()[-1]) in (last, last + 1))
        assert control.uploads


def test_a_workload_that_runs_goes_on_without_agent_and_control_plane_but_none_is_started(
    control: ControlRig, tmp_path: Path
) -> None:
    with InstanceRig(tmp_path, 1, control.url) as primary:
        wait_until(lambda: control.serves(1), 20)
        workload = primary.workload_pid()
        control.down = True
        os.kill(primary.agent_pid(), signal.SIGKILL)
        wait_until(lambda: len(primary.logged("agent begins")) == 2, 20)
        written = len(acknowledged(tmp_path))
        wait_until(lambda: len(acknowledged(tmp_path)) > written + 50, 20)
        assert primary.workload_pid() == workload

        primary.die()
        written = len(acknowledged(tmp_path))
        primary.boot()
        wait_until(lambda: len(primary.logged("agent begins")) == 3, 20)
        failures = len(primary.logged("a report may not have arrived"))
        wait_until(lambda: len(primary.logged("a report may not have arrived")) > failures + 2, 20)
        assert len(acknowledged(tmp_path)) == written

        control.down = False
        wait_until(lambda: len(acknowledged(tmp_path)) > written, 20)
        assert len(control.calls_to("register")) == 1


def test_a_setting_that_cannot_be_used_ends_the_supervisor_with_78(control: ControlRig, tmp_path: Path) -> None:
    instance = InstanceRig(tmp_path, 1, control.url)
    with (instance.disk / "agent.env").open("a") as file:
        file.write("HEARTBEAT_INTERVAL=soon\n")
    with instance:
        assert instance.supervisor is not None
        assert instance.supervisor.wait(20) == 78
        assert "HEARTBEAT_INTERVAL: found 'soon' in the configuration file" in instance.log.read_text()
