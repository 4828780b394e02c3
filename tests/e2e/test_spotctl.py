"""The operator's command line, as `make setup` installs it, against the deployed product."""

from __future__ import annotations

import json
from pathlib import Path

from local.rehearsal import Tenancy
from spotctl.failures import ExitCode
from tests.e2e.conftest import LaunchWorkload, a_protected_workload
from tests.e2e.operator import Operator


def test_an_operator_hands_a_workload_over_and_watches_it_serve(
    operator: Operator, launch_workload: LaunchWorkload
) -> None:
    workload = a_protected_workload(launch_workload)
    agent = operator.json("agents", "show", workload.agent_id)
    [standby] = agent["replicas"]
    ended = operator.run("replicas", "promote", workload.agent_id, standby["replica_id"], "--wait", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert "promoted: epoch 1 -> 2" in ended.stderr
    assert f"{standby['instance_id']} serves" in ended.stderr
    after = operator.json("agents", "show", workload.agent_id)
    assert (after["epoch"], after["primary_instance_id"]) == (2, standby["instance_id"])


def test_demo_data_loads_where_it_may_and_shows(
    operator: Operator, tenancy: Tenancy, launch_workload: LaunchWorkload, tmp_path: Path
) -> None:
    launch_workload()
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps({"spot-optimizer-dev": dict(tenancy.outputs)}))
    before = [agent["agent_id"] for agent in operator.json("agents", "list")]
    load = ("demo-data", "load", "--outputs", str(outputs), "--days", "1")
    refused = operator.run(*load)
    assert refused.returncode == ExitCode.CONFLICT, refused.stderr
    assert [agent["agent_id"] for agent in operator.json("agents", "list")] == before
    loaded = operator.json(*load, "--force")
    assert (loaded["loaded"]["clients"], loaded["loaded"]["replicas"], loaded["loaded"]["pools"]) == (4, 4, 5)
    demo = [agent for agent in operator.json("agents", "list") if agent["agent_id"].startswith("agt-demo-")]
    assert len(demo) == 4
    priced = [pool for pool in operator.json("pools") if pool["latest"]]
    pool_id = demo[0]["primary_pool_id"]
    assert pool_id in [pool["pool_id"] for pool in priced]
    assert "┤" in operator.run("prices", pool_id).stdout
