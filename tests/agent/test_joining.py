"""What an agent takes itself for when its process starts again."""

import pytest

from spot_agent.joining import may_go_on, resume
from spot_agent.journal import Memory
from spot_agent.workload import WorkloadStatus
from spot_optimizer.domain.primary import NEVER, Primary, Workload
from spot_optimizer.domain.protocol import GenerationCommitted
from spot_optimizer.domain.retired import Retired
from spot_optimizer.domain.standby import Standby

IDLE = WorkloadStatus(running=False)
NOW = 1000.0


def a_memory(**changes: object) -> Memory:
    known: dict[str, object] = {"registration_key": "key", "agent_id": "agt-1", "role": "primary", "epoch": 3}
    return Memory(**{**known, **changes})  # type: ignore[arg-type]


def test_an_instance_that_was_told_nothing_runs_nothing_and_asks() -> None:
    assert isinstance(resume(a_memory(role="retired"), IDLE, None, now=NOW), Retired)


@pytest.mark.parametrize(
    ("status", "frozen", "workload"),
    [
        (IDLE, False, Workload.STOPPED),
        (WorkloadStatus(running=True, epoch=3), False, Workload.RUNNING),
        (WorkloadStatus(running=True, epoch=3), True, Workload.FREEZING),
        (WorkloadStatus(running=True, epoch=2), False, Workload.STOPPED),
        (IDLE, True, Workload.STOPPED),
    ],
)
def test_a_primary_takes_up_the_workload_that_runs_under_its_epoch(
    status: WorkloadStatus, frozen: bool, workload: Workload
) -> None:
    state = resume(a_memory(frozen=frozen, readiness=4), status, None, now=NOW)
    assert isinstance(state, Primary)
    assert (state.workload, state.epoch, state.readiness, state.confirmed) == (workload, 3, 4, False)


@pytest.mark.parametrize(
    ("status", "lease_until"),
    [
        (WorkloadStatus(running=True, epoch=3, deadline=104.0), 104.0),
        (WorkloadStatus(running=True, epoch=3), NEVER),
        (WorkloadStatus(running=True, epoch=2, deadline=104.0), NEVER),
        (IDLE, NEVER),
    ],
)
def test_a_primary_takes_up_the_lease_by_which_the_fence_goes(status: WorkloadStatus, lease_until: float) -> None:
    state = resume(a_memory(), status, None, now=NOW)
    assert isinstance(state, Primary)
    assert state.lease_until == lease_until


def test_a_promoted_standby_that_died_before_it_restored_still_has_to_restore() -> None:
    held = GenerationCommitted(generation=9, covered_until="2026-01-01T00:00:00+00:00")
    state = resume(a_memory(), IDLE, held, now=NOW)
    assert isinstance(state, Primary)
    assert state.restore


def test_an_image_that_was_made_live_is_not_restored_again_because_the_workload_may_have_written_since() -> None:
    held = GenerationCommitted(generation=9, covered_until="2026-01-01T00:00:00+00:00")
    state = resume(a_memory(restored_epoch=3), IDLE, held, now=NOW)
    assert isinstance(state, Primary)
    assert not state.restore


def test_a_standby_that_stopped_granting_does_not_grant_again_because_it_died() -> None:
    held = GenerationCommitted(generation=9, covered_until="until", final_for="h-1", readiness=5)
    memory = a_memory(role="standby", replica_id="rep-1", granting=False, refused_at_readiness=5)
    state = resume(memory, IDLE, held, now=NOW)
    assert isinstance(state, Standby)
    assert (state.granting, state.refused_at_readiness, state.granted_at) == (False, 5, NOW)
    assert (state.generation, state.final_for, state.final_readiness) == (9, "h-1", 5)


@pytest.mark.parametrize(
    ("role", "epoch", "goes_on"), [("primary", 3, True), ("primary", 2, False), ("retired", 3, False)]
)
def test_a_workload_goes_on_only_under_the_epoch_that_its_agent_remembers(role: str, epoch: int, goes_on: bool) -> None:
    status = WorkloadStatus(running=True, epoch=epoch)
    assert may_go_on(a_memory(role=role), status) is goes_on
