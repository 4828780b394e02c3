"""Every state machine, held to the same contract: an operator can read it, and no failure in it goes unnoticed."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spot_optimizer import errors

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "statemachines").glob("*.asl.json"))

#: What a definition calls a function, and the folder of functions/ that is meant.
FUNCTIONS: Mapping[str, str] = {
    "FailOverFunction": "fail_over",
    "PrepareReplicaFunction": "prepare_replica",
    "ActivateModelFunction": "activate_model",
    "ScoreRiskFunction": "score_risk",
    "FillGapsFunction": "fill_gaps",
    "SwitchAgentsFunction": "switch_agents",
}

#: Of AWS's own errors: the state machine's, Lambda's, and those of a process that crashed or took too long.
AWS_ERRORS = ("States.", "Lambda.", "Runtime.", "Sandbox.")

#: Tasks whose failure must hold up nothing, each with the reason; every other failure ends the execution.
GOES_ON_WITHOUT: Mapping[str, str] = {
    "fail_over.RecordInterruption": "a record is for people; no failover waits for one",
    "fail_over.DemoteOldPrimary": "the failover has succeeded; what can not be demoted now, the sweep demotes",
    "fill_gaps.FillPool": "one pool's failure holds up no other; the execution fails when all were tried",
    "switch_agents.ConsiderAgent": "one agent's failure holds up no other; the execution fails when all were tried",
}

DOES_WORK = frozenset({"Task", "Map", "Parallel"})

State = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scope:
    """The states that can name each other: a whole machine, or one branch of a Map or Parallel."""

    machine: str
    states: Mapping[str, State]
    is_branch: bool


def machines() -> Iterator[tuple[str, State]]:
    for path in FILES:
        yield path.name.removesuffix(".asl.json"), json.loads(path.read_text())


def scopes() -> Iterator[Scope]:
    for name, definition in machines():
        yield from _scopes_below(name, definition, is_branch=False)


def _scopes_below(machine: str, definition: State, *, is_branch: bool) -> Iterator[Scope]:
    yield Scope(machine, definition["States"], is_branch)
    for state in definition["States"].values():
        inner = [*state.get("Branches", ()), *(state[key] for key in ("ItemProcessor", "Iterator") if key in state)]
        for branch in inner:
            yield from _scopes_below(machine, branch, is_branch=True)


def states(*kinds: str) -> list[Any]:
    """Every state of these kinds (of all kinds, without any), as one test case each."""
    return [
        pytest.param(scope, name, id=f"{scope.machine}.{name}")
        for scope in scopes()
        for name, state in scope.states.items()
        if not kinds or state["Type"] in kinds
    ]


def whole_machines() -> list[Any]:
    return [pytest.param(definition, id=name) for name, definition in machines()]


def next_names(state: State) -> Iterator[str]:
    """Where a state may lead, failures aside."""
    for choice in state.get("Choices", ()):
        yield choice["Next"]
    for key in ("Default", "Next"):
        if key in state:
            yield state[key]


def reached_from(start: str, within: Mapping[str, State]) -> frozenset[str]:
    """All states on any way from one, through catchers too, itself included."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            state = within[name]
            waiting += next_names(state)
            waiting += (catcher["Next"] for catcher in state.get("Catch", ()))
    return frozenset(reached)


def last_resort(state: State) -> str:
    return str(state["Catch"][-1]["Next"])


def on_a_failure_path(scope: Scope, name: str) -> bool:
    """Whether the state is only what a last catcher leads to: it records a failure that has already happened."""
    targets = {
        last_resort(state)
        for task, state in scope.states.items()
        if state.get("Catch") and f"{scope.machine}.{task}" not in GOES_ON_WITHOUT
    }
    return any(name in reached_from(target, scope.states) for target in targets)


def test_there_are_state_machines_to_look_at() -> None:
    assert {path.name for path in FILES} >= {"fail_over.asl.json", "prepare_replica.asl.json", "fill_gaps.asl.json"}


@pytest.mark.parametrize("definition", whole_machines())
def test_a_machine_says_what_goes_in_and_what_comes_out(definition: State) -> None:
    assert re.search(r"\binput\b", definition["Comment"], re.IGNORECASE)
    assert re.search(r"\boutput\b", definition["Comment"], re.IGNORECASE)


@pytest.mark.parametrize("definition", whole_machines())
def test_a_machine_ends_on_its_own(definition: State) -> None:
    assert definition["TimeoutSeconds"] > 0


@pytest.mark.parametrize("definition", whole_machines())
def test_a_machine_speaks_json_path(definition: State) -> None:
    assert definition.get("QueryLanguage", "JSONPath") == "JSONPath"


@pytest.mark.parametrize(("scope", "name"), states())
def test_a_state_says_why_it_is_there(scope: Scope, name: str) -> None:
    assert len(scope.states[name]["Comment"].split()) >= 4


@pytest.mark.parametrize(("scope", "name"), states())
def test_a_state_is_named_by_what_it_does(scope: Scope, name: str) -> None:
    assert re.fullmatch(r"(?:[A-Z][a-z0-9]*)+", name), "verb first, in CamelCase"


@pytest.mark.parametrize(("scope", "name"), states())
def test_a_state_leads_to_states_that_exist(scope: Scope, name: str) -> None:
    assert reached_from(name, scope.states) <= scope.states.keys()


@pytest.mark.parametrize(("scope", "name"), states("Task"))
def test_a_task_does_not_wait_for_ever(scope: Scope, name: str) -> None:
    state = scope.states[name]
    assert state.get("TimeoutSeconds", 0) > 0 or state.get("TimeoutSecondsPath")


@pytest.mark.parametrize(("scope", "name"), states("Task"))
def test_a_task_is_retried_with_patience(scope: Scope, name: str) -> None:
    retriers = scope.states[name].get("Retry")
    assert retriers, "what may succeed later is tried again"
    for retrier in retriers:
        assert retrier["IntervalSeconds"] >= 1
        assert retrier["BackoffRate"] >= 1
        assert retrier["JitterStrategy"] == "FULL"
        assert retrier["MaxAttempts"] >= 1
        assert retrier["MaxDelaySeconds"] >= retrier["IntervalSeconds"]


@pytest.mark.parametrize(("scope", "name"), states("Task"))
def test_only_transient_errors_are_retried(scope: Scope, name: str) -> None:
    for retrier in scope.states[name]["Retry"]:
        for error in retrier["ErrorEquals"]:
            if not error.startswith(AWS_ERRORS):
                assert issubclass(getattr(errors, error), errors.Transient)


@pytest.mark.parametrize(("scope", "name"), states(*DOES_WORK))
def test_the_last_catcher_takes_everything_and_ends_in_failure(scope: Scope, name: str) -> None:
    catchers = scope.states[name].get("Catch")
    assert catchers, "no failure goes unnoticed"
    assert catchers[-1]["ErrorEquals"] == ["States.ALL"]
    assert all("States.ALL" not in catcher["ErrorEquals"] for catcher in catchers[:-1])
    if f"{scope.machine}.{name}" in GOES_ON_WITHOUT:
        return
    reached = [scope.states[target] for target in reached_from(last_resort(scope.states[name]), scope.states)]
    ends = [state for state in reached if state.get("End") or state["Type"] in {"Succeed", "Fail"}]
    assert ends
    assert all(state["Type"] == "Fail" for state in ends)


@pytest.mark.parametrize(("scope", "name"), states(*DOES_WORK))
def test_a_failure_is_recorded_before_the_execution_ends(scope: Scope, name: str) -> None:
    if scope.is_branch or on_a_failure_path(scope, name):
        return  # recorded by what catches the branch, or being recorded
    reached = reached_from(last_resort(scope.states[name]), scope.states)
    assert any(scope.states[target]["Type"] == "Task" for target in reached)


@pytest.mark.parametrize(("scope", "name"), states(*DOES_WORK, "Pass"))
def test_a_result_adds_one_key_and_never_replaces_the_payload(scope: Scope, name: str) -> None:
    state = scope.states[name]
    _adds_one_key(state.get("ResultPath", "$") if state["Type"] != "Pass" or _makes_a_result(state) else None)
    assert state.get("OutputPath", "$") == "$"
    for catcher in state.get("Catch", ()):
        _adds_one_key(catcher.get("ResultPath", "$"))


def _makes_a_result(state: State) -> bool:
    return "Result" in state or "Parameters" in state


def _adds_one_key(path: str | None) -> None:
    assert path is None or re.fullmatch(r"\$\.[a-z][a-z_]*", path)


@pytest.mark.parametrize(("scope", "name"), states())
def test_every_error_named_exists(scope: Scope, name: str) -> None:
    state = scope.states[name]
    for handler in (*state.get("Retry", ()), *state.get("Catch", ())):
        for error in handler["ErrorEquals"]:
            if not error.startswith(AWS_ERRORS):
                assert issubclass(getattr(errors, error), errors.SpotOptimizerError)


@pytest.mark.parametrize(("scope", "name"), states("Task"))
def test_a_task_invokes_a_function_that_knows_it(scope: Scope, name: str) -> None:
    parameters = scope.states[name]["Parameters"]
    placeholder = re.fullmatch(r"\$\{(\w+)\}", parameters["FunctionName"])
    assert placeholder, "a function is named by the stack, not by the definition"
    handler = importlib.import_module(f"functions.{FUNCTIONS[placeholder[1]]}.handler")
    assert parameters["Payload"]["task"] in handler.TASKS


@pytest.mark.parametrize(("scope", "name"), states("Task"))
def test_a_task_that_waits_hands_over_its_token(scope: Scope, name: str) -> None:
    state = scope.states[name]
    waits = state["Resource"].endswith(".waitForTaskToken")
    hands_over = "$$.Task.Token" in state["Parameters"]["Payload"].values()
    assert waits == hands_over


@pytest.mark.parametrize(("scope", "name"), states("Fail"))
def test_a_failure_says_what_to_look_for(scope: Scope, name: str) -> None:
    state = scope.states[name]
    assert state.get("Error") or state.get("ErrorPath")
    assert state.get("Cause") or state.get("CausePath")
