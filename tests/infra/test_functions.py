"""What runs: functions, their layer, and what the layer holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from layers.build import AWS_SERVICES, LARGEST_UNZIPPED_BYTES, build_shared_layer, unzipped_bytes
from tests.infra.conftest import ROOT, Deployment

ADAPTERS = ROOT / "layers" / "shared" / "python" / "spot_optimizer" / "adapters"


def test_every_folder_of_functions_is_deployed_once(dev: Deployment) -> None:
    deployed = [
        function["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]
        for function in dev.properties("AWS::Lambda::Function").values()
    ]
    assert sorted(deployed) == sorted(path.parent.name for path in (ROOT / "functions").glob("*/handler.py"))


def test_all_functions_run_on_one_runtime_and_architecture(dev: Deployment) -> None:
    functions = dev.properties("AWS::Lambda::Function").values()
    assert {function["Runtime"] for function in functions} == {"python3.13"}
    assert {tuple(function["Architectures"]) for function in functions} == {("arm64",)}


def test_a_function_reaches_a_failover_only_through_its_state_machine_name(dev: Deployment) -> None:
    machines = dev.properties("AWS::StepFunctions::StateMachine").values()
    assert {machine["StateMachineName"] for machine in machines} == {
        "spot-optimizer-dev-fail-over",
        "spot-optimizer-dev-prepare-replica",
    }


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_the_layer_fits_and_leaves_room_for_a_function(architecture: str) -> None:
    assert unzipped_bytes(build_shared_layer(architecture)) < LARGEST_UNZIPPED_BYTES / 2


def test_the_layer_has_the_model_of_every_service_that_an_adapter_talks_to() -> None:
    named = {
        service
        for path in ADAPTERS.glob("*.py")
        for service in re.findall(r"""client\(\s*["']([a-z0-9-]+)["']""", path.read_text())
    }
    assert named
    assert named <= AWS_SERVICES


def test_the_layer_carries_our_package_compiled() -> None:
    package = build_shared_layer("arm64") / "python" / "spot_optimizer"
    assert (package / "errors.py").read_bytes() == (ADAPTERS.parent / "errors.py").read_bytes()
    compiled: Path = package / "__pycache__" / "errors.cpython-313.pyc"
    # flags 0b01: keyed by hash, and not checked against the source
    assert compiled.read_bytes()[4:8] == (1).to_bytes(4, "little")
