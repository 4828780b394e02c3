"""The operator's command line, as `make setup` installs it, against the deployed product."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local.rehearsal import Tenancy
from spotctl.failures import ExitCode
from tests.e2e.conftest import LaunchWorkload, a_protected_workload
from tests.trained_models import a_trained_model

SPOTCTL = Path(sys.executable).parent / "spotctl"


class Operator:
    """Somebody at a prompt, with a home folder of their own."""

    def __init__(self, tenancy: Tenancy, home: Path) -> None:
        self.environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), **tenancy.aws.environment}
        signed_in = self.run("sign-in", tenancy.api_url, say=tenancy.operator_token)
        assert signed_in.returncode == 0, signed_in.stderr

    def run(self, *arguments: str, say: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SPOTCTL, *arguments],
            env=self.environment,
            input=say,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        ended = self.run(*arguments, "--json")
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)


@pytest.fixture
def operator(tenancy: Tenancy, tmp_path: Path) -> Operator:
    return Operator(tenancy, tmp_path)


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


def test_a_model_is_uploaded_file_by_file(operator: Operator, tmp_path: Path) -> None:
    model = a_trained_model()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(model.body["manifest"]))
    for name, content in model.files.items():
        (folder / name).write_bytes(content)
    session_id = operator.json("models", "upload", str(folder))["session_id"]
    [uploaded] = [one for one in operator.json("models", "list") if one["session_id"] == session_id]
    assert uploaded["status"] == "pending"
    again = operator.run("models", "activate", "no-such-session")
    assert again.returncode == ExitCode.UNKNOWN


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
