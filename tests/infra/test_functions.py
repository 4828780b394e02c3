"""What runs: functions, their layer, and what the layer holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra.synth import host_architecture
from layers.build import AWS_SERVICES, LARGEST_UNZIPPED_BYTES, ML, SHARED, build_layer, build_layers, unzipped_bytes
from spot_optimizer.domain.gaps import Rules
from tests.infra.conftest import ROOT, Deployment

#: What a function's own code may still take.
LARGEST_UNZIPPED_FOR_LAYERS = 250_000_000

USES_BOTH_LAYERS = """
import numpy, xgboost
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from spot_optimizer.domain.models import Golden, HorizonModel, Manifest, ModelFile, Span
from spot_optimizer_ml.scoring import RiskModel

rows = numpy.random.default_rng(1).normal(size=(100, 3))
names = ["a", "b", "c"]
matrix = xgboost.DMatrix(rows, label=rows[:, 0] > 0, feature_names=names)
content = bytes(xgboost.train({"objective": "binary:logistic", "max_depth": 2}, matrix, 3).save_raw("ubj"))
now = datetime(2026, 1, 1, tzinfo=UTC)
manifest = Manifest(
    format_version=1, features=tuple(names), training_span=Span(now, now + timedelta(1)),
    test_span=Span(now + timedelta(1), now + timedelta(2)), metrics={},
    files=(ModelFile("a.ubj", len(content), sha256(content).hexdigest()),),
    horizons=(HorizonModel(1, "a.ubj"), HorizonModel(6, "a.ubj")), golden=Golden((), ()),
)
print(*RiskModel.load(manifest, {"a.ubj": content}).predict(rows[:8]).shape)
"""

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
        "spot-optimizer-dev-activate-model",
        "spot-optimizer-dev-fill-gaps",
        "spot-optimizer-dev-switch-agents",
    }


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_the_layer_fits_and_leaves_room_for_a_function(architecture: str) -> None:
    assert unzipped_bytes(build_layer(SHARED, architecture)) < LARGEST_UNZIPPED_BYTES / 2


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_both_layers_together_leave_room_for_a_function(architecture: str) -> None:
    assert sum(map(unzipped_bytes, build_layers(architecture))) < LARGEST_UNZIPPED_FOR_LAYERS


@pytest.mark.parametrize(("architecture", "machine"), [("arm64", 0xB7), ("x86_64", 0x3E)])
def test_the_ml_layer_is_built_for_the_processor_it_is_deployed_to(architecture: str, machine: int) -> None:
    libraries = list((build_layer(ML, architecture) / "python").rglob("*.so"))
    assert any(path.name == "libxgboost.so" for path in libraries)
    for path in libraries:
        with path.open("rb") as library:
            header = library.read(20)
        # ELF: magic, then e_machine at byte 18
        assert header[:4] == b"\x7fELF"
        assert int.from_bytes(header[18:20], "little") == machine, path


def test_a_model_is_trained_loaded_and_scored_with_nothing_but_the_two_layers() -> None:
    shared, ml = (folder / "python" for folder in build_layers(host_architecture()))
    done = subprocess.run(
        [sys.executable, "-S", "-c", USES_BOTH_LAYERS],
        env={"PYTHONPATH": f"{shared}:{ml}", "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8", "2"]


def test_only_what_scores_carries_the_ml_layer(dev: Deployment) -> None:
    carrying = {
        function["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]
        for function in dev.properties("AWS::Lambda::Function").values()
        if any("MlLayer" in str(layer) for layer in function["Layers"])
    }
    assert carrying == {"activate_model", "decide_fleet", "score_risk"}


def test_the_layer_has_the_model_of_every_service_that_an_adapter_talks_to() -> None:
    named = {
        service
        for path in ADAPTERS.glob("*.py")
        for service in re.findall(r"""client\(\s*["']([a-z0-9-]+)["']""", path.read_text())
    }
    assert named
    assert named <= AWS_SERVICES


def test_the_layer_carries_our_package_compiled() -> None:
    package = build_layer(SHARED, "arm64") / "python" / "spot_optimizer"
    assert (package / "errors.py").read_bytes() == (ADAPTERS.parent / "errors.py").read_bytes()
    compiled: Path = package / "__pycache__" / "errors.cpython-313.pyc"
    # flags 0b01: keyed by hash, and not checked against the source
    assert compiled.read_bytes()[4:8] == (1).to_bytes(4, "little")


def test_gaps_are_filled_by_the_rules_that_the_deployment_chose(dev: Deployment) -> None:
    functions = dev.properties("AWS::Lambda::Function").values()
    [rules] = [
        rules for function in functions if (rules := function["Environment"]["Variables"].get("GAP_RULES")) is not None
    ]
    assert Rules.parse(rules) == Rules()
