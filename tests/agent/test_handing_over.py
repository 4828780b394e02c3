"""Two real agents, with real links, hooks and fences, against the control plane's real decisions."""

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spot_agent.fence import boot_clock
from spot_optimizer.domain.agents import HandoverState
from spot_optimizer.domain.replicas import ReplicaState
from tests.agent.control_rig import ControlRig
from tests.agent.fence_rig import is_alive, moment_of_death, wait_until
from tests.agent.instance_rig import InstanceRig, acknowledged, await_writes


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
    numbers = [number for number, _, _ in acknowledged(folder)]
    return [later for earlier, later in itertools.pairwise(numbers) if later != earlier + 1]


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


def test_a_primary_that_dies_is_replaced_after_its_lease_has_run_out(control: ControlRig, tmp_path: Path) -> None:
    with a_ready_pair(control, tmp_path) as (primary, _):
        await_writes(tmp_path, epoch=1, count=100)
        died_at = boot_clock()
        primary.die()
        wait_until(lambda: control.calls_to("create-emergency-replica"), 20)
        assert control.calls_to("create-emergency-replica")[0]["instance_id"] == primary.instance_id
        control.open_handover()
        wait_until(lambda: control.serves(2), 20)
        assert boot_clock() - died_at < 15
        await_writes(tmp_path, epoch=2)
        first_again = next(number for number, epoch, _ in acknowledged(tmp_path) if epoch == 2)
        known = [(number, at) for number, epoch, at in acknowledged(tmp_path) if epoch == 1]
        assert all(died_at - at <= 2 * 0.3 + 0.5 for number, at in known if number >= first_again)


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


def test_an_agent_that_is_killed_takes_up_the_workload_that_runs(control: ControlRig, tmp_path: Path) -> None:
    with InstanceRig(tmp_path, 1, control.url) as primary:
        wait_until(lambda: control.serves(1), 20)
        workload = primary.workload_pid()
        for _ in range(2):
            beats = len(control.calls_to("heartbeat"))
            os.kill(primary.agent_pid(), signal.SIGKILL)
            wait_until(lambda beats=beats: len(control.calls_to("heartbeat")) > beats + 1, 20)
            wait_until(lambda: control.serves(1))
        assert primary.workload_pid() == workload
        assert len(control.calls_to("register")) == 1


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


def test_a_primary_without_a_standby_serves_on_while_the_control_plane_is_down(
    control: ControlRig, tmp_path: Path
) -> None:
    with InstanceRig(tmp_path, 1, control.url) as primary:
        wait_until(lambda: control.serves(1), 20)
        control.down = True
        before = len(acknowledged(tmp_path))
        os.kill(primary.agent_pid(), signal.SIGKILL)
        wait_until(lambda: len(acknowledged(tmp_path)) > before + 200, 20)
        control.down = False
        beats = len(control.calls_to("heartbeat"))
        wait_until(lambda: len(control.calls_to("heartbeat")) > beats + 1)
        assert control.serves(1)


def test_sigterm_stops_the_workload_and_ships_what_it_wrote_last(control: ControlRig, tmp_path: Path) -> None:
    with a_ready_pair(control, tmp_path) as (primary, standby):
        workload = primary.workload_pid()
        assert primary.terminate() == 0
        assert moment_of_death(workload)
        last, _, _ = acknowledged(tmp_path)[-1]
        wait_until(lambda: (standby.disk / "image" / "numbers").read_text().split()[-1] == str(last))
        assert control.uploads


def test_the_workload_never_starts_before_the_control_plane_has_confirmed_the_epoch(
    control: ControlRig, tmp_path: Path
) -> None:
    with InstanceRig(tmp_path, 1, control.url) as primary:
        await_writes(tmp_path, epoch=1)
        primary.die()
        control.down = True
        primary.boot()
        wait_until(lambda: len(primary.logged("agent begins")) == 2, 20)
        written = len(acknowledged(tmp_path))
        wait_until(lambda: len(primary.logged("a report may not have arrived")) > 2, 20)
        assert len(acknowledged(tmp_path)) == written
        control.down = False
        wait_until(lambda: len(acknowledged(tmp_path)) > written, 20)


def test_a_setting_that_cannot_be_used_ends_the_supervisor_with_78(control: ControlRig, tmp_path: Path) -> None:
    with InstanceRig(tmp_path, 1, control.url) as instance:
        assert instance.terminate() in (0, 78)
        with (instance.disk / "agent.env").open("a") as file:
            file.write("HEARTBEAT_INTERVAL=soon\n")
        instance.boot()
        assert instance.supervisor is not None
        assert instance.supervisor.wait(20) == 78
        assert "HEARTBEAT_INTERVAL: found 'soon' in the configuration file" in instance.log.read_text()
