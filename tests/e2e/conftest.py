"""The whole product, deployed once on one local AWS; each test protects a ledger of its own on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.synth import host_architecture, synthesize
from local.instances import RUN_VARIABLE
from local.launcher import LocalAws
from local.processes import carrying
from local.rehearsal import LedgerWorkload, Tenancy
from local.rehearsal.tenancy import ASSEMBLY
from tests.e2e.operator import Operator

type LaunchWorkload = Callable[..., LedgerWorkload]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/e2e" in item.path.as_posix():
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def tenancy() -> Iterator[Tenancy]:
    """The deployed product; when the tests are through, nothing of it may be left."""
    synthesize(ASSEMBLY, stage="dev", architecture=host_architecture())
    with LocalAws() as aws:
        moved_in = Tenancy.deploy(aws)
        yield moved_in
        moved_in.close()
        folder = aws.folder
    assert not folder.exists(), f"{folder} was left behind"
    assert not list(carrying(RUN_VARIABLE, folder.name)), "processes were left behind"


@pytest.fixture
def operator(tenancy: Tenancy, tmp_path: Path) -> Operator:
    """An admin with `spotctl`."""
    return Operator(tenancy, tmp_path)


@pytest.fixture
def launch_workload(tenancy: Tenancy, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LaunchWorkload]:
    """Protect a ledger, with a client that writes to it; its instances are killed when the test is over."""
    launched: list[LedgerWorkload] = []

    def launch(**changes: object) -> LedgerWorkload:
        name = f"{request.node.name[5:45].replace('_', '-')}-{len(launched)}"
        workload = LedgerWorkload(tenancy, tmp_path / f"logs-{len(launched)}", name=name, **changes)  # type: ignore[arg-type]
        launched.append(workload)
        workload.launch()
        workload.client.start()
        return workload

    yield launch
    for workload in launched:
        workload.client.stop()
        workload.remove()


def a_protected_workload(launch_workload: LaunchWorkload, **changes: object) -> LedgerWorkload:
    """A ledger under load with a ready standby, prepared because AWS recommended a rebalance."""
    workload = launch_workload(**changes)
    workload.tenancy.aws.market.recommend_rebalance(workload.primary_id)
    workload.await_ready_standby()
    return workload
