"""Step Functions: the product's own ASL files, interpreted; tasks are run at least once, executions once per name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spot_optimizer.domain.claims import Execution

if TYPE_CHECKING:
    from simulation.kernel import Kernel

STATEMACHINES = Path(__file__).parent.parent / "statemachines"
TOKEN_RESOURCE = "arn:aws:states:::lambda:invoke.waitForTaskToken"  # noqa: S105 - the name of an integration
LAMBDA_RESOURCE = "arn:aws:states:::lambda:invoke"
RETRYABLE_CRASH = "Lambda.ServiceException"

Answer = Callable[[Any, str | None], None]
"""Takes a task's result, or the name of its error."""

Invoke = Callable[[str, Mapping[str, Any], Answer], None]
"""Invokes the function behind a task; the payload names the task."""


@cache
def machine(name: str) -> Mapping[str, Any]:
    """A state machine as the repository has it."""
    definition: Mapping[str, Any] = json.loads((STATEMACHINES / f"{name}.asl.json").read_text(encoding="utf-8"))
    return definition


@dataclass(slots=True)
class _Waiting:
    """One entry into a task state: answers to an earlier one mean nothing."""

    number: int
    token: str | None = None


class Running:
    """One execution."""

    def __init__(self, workflows: StepFunctions, machine_name: str, name: str, payload: Mapping[str, Any]) -> None:
        self.machine_name = machine_name
        self.name = name
        self.payload = dict(payload)
        self.began_at = workflows.kernel.now
        self.ended_at: float | None = None
        self.status = "RUNNING"
        self._workflows = workflows
        self._definition = machine(machine_name)
        self._data: dict[str, Any] = dict(payload)
        self._state = ""
        self._waiting = _Waiting(0)
        self._retries: dict[int, int] = {}

    def begin(self) -> None:
        self._workflows.kernel.after(self._definition["TimeoutSeconds"], self._time_out_all)
        self._enter(self._definition["StartAt"])

    def _enter(self, state: str, *, again: bool = False) -> None:
        if self.ended_at is not None:
            return
        self._state = state
        if not again:
            self._retries = {}
        self._workflows.note_state(self.machine_name, state)
        definition = self._definition["States"][state]
        match definition["Type"]:
            case "Task":
                self._start_task(definition)
            case "Choice":
                self._follow(self._choose(definition))
            case "Wait":
                self._workflows.kernel.after(definition["Seconds"], self._enter, definition["Next"])
            case "Succeed":
                self._end("SUCCEEDED")
            case "Fail":
                self._end("FAILED")
            case kind:
                raise NotImplementedError(f"the simulator does not know states of type {kind}")

    def _start_task(self, definition: Mapping[str, Any]) -> None:
        self._workflows.kernel.tell(self.name, "%s", self._state)
        number = self._waiting.number + 1
        token = None
        if definition["Resource"] == TOKEN_RESOURCE:
            token = self._workflows.issue_token(self, number)
        elif definition["Resource"] != LAMBDA_RESOURCE:
            raise NotImplementedError(f"the simulator does not know {definition['Resource']}")
        self._waiting = _Waiting(number, token)
        parameters = _fill(definition["Parameters"], self._data, token)
        self._workflows.kernel.after(definition["TimeoutSeconds"], self._fail_task, number, "States.Timeout")
        waits = token is not None

        def answer(result: Any, error: str | None) -> None:
            if error is not None:
                self._fail_task(number, error)
            elif not waits:
                self._complete_task(number, {"Payload": result})

        self._workflows.invoke(self.machine_name, parameters["Payload"], answer)

    def complete_token(self, number: int, output: Mapping[str, Any]) -> None:
        """Take what a waker sent; nothing if nobody waits on this token any more."""
        if self.ended_at is None and self._waiting.number == number and self._waiting.token is not None:
            self._complete_task(number, output)

    def _complete_task(self, number: int, output: Any) -> None:
        if self.ended_at is not None or self._waiting.number != number:
            return
        self._waiting = _Waiting(number + 1)
        definition = self._definition["States"][self._state]
        if "ResultSelector" in definition:
            output = _fill(definition["ResultSelector"], output, None)
        self._data = _place(self._data, definition.get("ResultPath", "$"), output)
        self._follow(definition["Next"])

    def _fail_task(self, number: int, error: str) -> None:
        if self.ended_at is not None or self._waiting.number != number:
            return
        self._waiting = _Waiting(number + 1)
        definition = self._definition["States"][self._state]
        for index, rule in enumerate(definition.get("Retry", ())):
            if _matches(rule["ErrorEquals"], error):
                done = self._retries.get(index, 0)
                if done < rule["MaxAttempts"]:
                    self._retries[index] = done + 1
                    delay = min(rule["IntervalSeconds"] * rule["BackoffRate"] ** done, rule.get("MaxDelaySeconds", 1e9))
                    if rule.get("JitterStrategy") == "FULL":
                        delay *= self._workflows.kernel.chance.random()
                    self._workflows.note_retry(self.machine_name, self._state, error)
                    self._workflows.kernel.after(delay, self._retry, self._state, self._waiting.number)
                    return
                break
        for catcher in definition.get("Catch", ()):
            if _matches(catcher["ErrorEquals"], error):
                self._workflows.note_catch(self.machine_name, self._state, catcher["ErrorEquals"][0], error)
                failure = {"Error": error, "Cause": error}
                self._data = _place(self._data, catcher.get("ResultPath", "$"), failure)
                self._follow(catcher["Next"])
                return
        self._end("FAILED")

    def _retry(self, state: str, number: int) -> None:
        if self.ended_at is None and self._waiting.number == number:
            self._enter(state, again=True)

    def _choose(self, definition: Mapping[str, Any]) -> str:
        for choice in definition["Choices"]:
            if _look_up(self._data, choice["Variable"]) == choice["StringEquals"]:
                self._workflows.note_choice(self.machine_name, self._state, choice["StringEquals"])
                following: str = choice["Next"]
                return following
        default: str = definition["Default"]
        return default

    def _follow(self, state: str) -> None:
        kernel = self._workflows.kernel
        kernel.after(kernel.soon(0.02), self._enter, state)

    def _time_out_all(self) -> None:
        if self.ended_at is None:
            self._end("TIMED_OUT")

    def stop(self) -> None:
        """An operator stops the execution; a task that runs at this moment is not stopped by that."""
        if self.ended_at is None:
            self._end("ABORTED")

    def redrive(self) -> None:
        """An operator has an execution that was stopped go on, from the state that it was in."""
        if self.status == "ABORTED" and self._state:
            self.status, self.ended_at = "RUNNING", None
            self._workflows.kernel.tell(self.name, "is redriven")
            self._waiting = _Waiting(self._waiting.number + 1)
            self._enter(self._state)

    def _end(self, status: str) -> None:
        self.status = status
        self.ended_at = self._workflows.kernel.now
        self._workflows.kernel.tell(self.name, "ends: %s at %s", status, self._state)


class StepFunctions:
    """All executions.

    Attributes:
        invoke: Runs a task's function; see `Invoke`.
        note_state: Told of every state that is entered, for coverage; likewise `note_catch`, `note_retry`.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.executions: dict[str, Running] = {}
        self.invoke: Callable[[str, Mapping[str, Any], Answer], None] = lambda _machine, _payload, _answer: None
        self.note_state: Callable[[str, str], None] = lambda _machine, _state: None
        self.note_catch: Callable[[str, str, str, str], None] = lambda _machine, _state, _caught, _error: None
        self.note_choice: Callable[[str, str, str], None] = lambda _machine, _state, _chosen: None
        self.note_retry: Callable[[str, str, str], None] = lambda _machine, _state, _error: None
        self._tokens: dict[str, tuple[Running, int]] = {}

    def start(self, machine_name: str, name: str, payload: Mapping[str, Any]) -> None:
        """Start an execution; a name that runs, or ever ran, is left as it is, as our adapter has it."""
        running = self.executions.get(name)
        if running is not None:
            if running.payload != dict(payload):
                raise AssertionError(f"execution {name} is started with another input")
            return
        self.executions[name] = running = Running(self, machine_name, name, payload)
        self.kernel.after(self.kernel.soon(0.03), running.begin)

    def state(self, name: str) -> Execution:
        """What became of an execution. DescribeExecution is eventually consistent, so this may be a moment old."""
        seen_at = self.kernel.now - self.kernel.soon(0.1)
        running = self.executions.get(name)
        if running is None or running.began_at > seen_at:
            return Execution.UNKNOWN
        return Execution.RUNNING if running.ended_at is None or running.ended_at > seen_at else Execution.ENDED

    def issue_token(self, running: Running, number: int) -> str:
        token = f"token-{len(self._tokens) + 1}"
        self._tokens[token] = (running, number)
        return token

    def wake(self, token: str) -> None:
        """SendTaskSuccess; one that comes too late is a success, which is what our adapter makes of it."""
        if token in self._tokens:
            running, number = self._tokens[token]
            self.kernel.after(self.kernel.soon(0.02), running.complete_token, number, {})


def _matches(names: list[str], error: str) -> bool:
    # States.ALL and States.TaskFailed do not match a time-out of the whole; that one is no task's error.
    return error in names or "States.ALL" in names or ("States.TaskFailed" in names and error != "States.Timeout")


def _fill(template: Any, data: Mapping[str, Any], token: str | None) -> Any:
    if not isinstance(template, Mapping):
        return template
    filled = {}
    for key, value in template.items():
        if key.endswith(".$"):
            filled[key[:-2]] = _evaluate(value, data, token)
        else:
            filled[key] = _fill(value, data, token)
    return filled


def _evaluate(expression: str, data: Mapping[str, Any], token: str | None) -> Any:
    if expression == "$$.Task.Token":
        return token
    if expression == "States.JsonToString($)":
        return json.dumps(data, sort_keys=True)
    if expression.startswith(("States.", "$$")):
        raise NotImplementedError(f"the simulator does not know {expression}")
    return _look_up(data, expression)


def _look_up(data: Any, path: str) -> Any:
    for part in path.removeprefix("$").strip(".").split("."):
        if part:
            data = data[part]
    return data


def _place(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    if path == "$":
        return dict(value)
    return {**data, path.removeprefix("$."): value}
