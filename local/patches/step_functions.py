"""Step Functions: task tokens are spent once, time limits hold, errors surface at once, starting is idempotent."""
# ruff: noqa: SLF001 - patches the emulator's insides, by design

from __future__ import annotations

import contextvars
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ministack.services.stepfunctions as states
from ministack import app
from ministack.services import dynamodb

from local.patches.rewriting import rewrite, wrap

type Request = Mapping[str, Any]
type Answer = tuple[int, dict[str, str], bytes]

_execution: contextvars.ContextVar[str] = contextvars.ContextVar("_execution", default="")
_spent: set[str] = set()
_beats: dict[str, float] = {}
_spending = threading.Lock()
_POLL_SECONDS = 0.05


def apply() -> None:
    """Patch Step Functions."""
    wrap("idempotent StartExecution", states, "_start_execution", "(data)", _idempotent_start)
    for name in ("_send_task_success", "_send_task_failure"):
        wrap("one-shot task tokens", states, name, "(data)", _once)
    wrap("heartbeats", states, "_send_task_heartbeat", "(data)", _beating)
    rewrite("executions start at once", states, "_run_execution", {"    time.sleep(0.15)\n": ""})
    wrap("execution TimeoutSeconds", states, "_run_execution", "(exec_arn)", _within_its_time)
    rewrite(
        "an ended execution stays as it ended",
        states,
        "_fail_execution",
        {
            '    execution["status"] = "FAILED"\n': (
                '    if execution["status"] != "RUNNING":\n        return\n    execution["status"] = "FAILED"\n'
            )
        },
    )
    rewrite(
        "waitForTaskToken",
        states,
        "_invoke_with_callback",
        {
            "        except _ExecutionError:\n            pass\n": (
                "        except _ExecutionError:\n"
                "            if not evt.is_set():\n"
                "                _local_spend(token)\n"
                "                raise\n"
            ),
            (
                '    timeout = state_def.get("TimeoutSeconds", 99999)\n'
                "    if not evt.wait(timeout=timeout):\n"
                "        _task_tokens.pop(token, None)\n"
                '        raise _ExecutionError("States.Timeout",\n'
                '                              "Task timed out waiting for callback")\n'
            ): "    _local_await_callback(evt, token, state_def, _local_began)\n",
            "    evt = threading.Event()\n": "    _local_began = time.monotonic()\n    evt = threading.Event()\n",
        },
        given={"_local_spend": _spend, "_local_await_callback": _await_callback},
    )
    rewrite(
        "a token per attempt; MaxDelaySeconds",
        states,
        "_execute_task",
        {
            '        ctx["State"]["RetryCount"] = sum(retry_counts.values())\n': (
                '        ctx["State"]["RetryCount"] = sum(retry_counts.values())\n'
                "        if is_callback:\n"
                '            ctx["Task"] = {"Token": new_uuid()}\n'
            ),
            "_scaled_sleep(min(sleep_sec, 60))": '_scaled_sleep(min(sleep_sec, retrier.get("MaxDelaySeconds", 60)))',
        },
    )
    rewrite(
        "throttled tasks say so",
        states,
        "_call_lambda",
        {
            'body.get("errorType", "Lambda.Unknown")': (
                'body.get("errorType") or '
                '("Lambda.TooManyRequestsException" if result.get("throttle") else "Lambda.Unknown")'
            )
        },
    )
    rewrite(
        "States.TaskFailed spares both timeouts",
        states,
        "_error_matches",
        {'error != "States.Timeout"': 'error not in ("States.Timeout", "States.HeartbeatTimeout")'},
    )
    wrap(
        "dynamodb integrations on the event loop",
        states,
        "_invoke_dynamodb",
        "(op_name, input_data)",
        _dynamodb_in_turn,
    )


def _idempotent_start(original: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    """Same name and input while running: the same execution. Anything else under that name: ExecutionAlreadyExists."""

    def start(data: Request) -> Answer:
        machine = states._resolve_state_machine_arn(data.get("stateMachineArn", ""))
        name = data.get("name")
        if machine and name:
            known = states._executions.get(f"{machine.replace(':stateMachine:', ':execution:')}:{name}")
            if known and known["status"] == "RUNNING" and _same_json(known["input"], data.get("input", "{}")):
                answer: Answer = states.json_response(
                    {"executionArn": known["executionArn"], "startDate": known["startDate"]}
                )
                return answer
        return original(data)

    return start


def _same_json(one: str, other: str) -> bool:
    try:
        return bool(json.loads(one or "{}") == json.loads(other or "{}"))
    except ValueError:
        return one == other


def _once(original: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    def send(data: Request) -> Answer:
        token = str(data.get("taskToken"))
        with _spending:
            if token in _spent:
                return _timed_out()
            answer = original(data)
            if answer[0] < 300:
                _spent.add(token)
            return answer

    return send


def _beating(original: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    def send(data: Request) -> Answer:
        token = str(data.get("taskToken"))
        if token in _spent:
            return _timed_out()
        _beats[token] = time.monotonic()
        return original(data)

    return send


def _timed_out() -> Answer:
    refusal: Answer = states.error_response_json(
        "TaskTimedOut", "The task token has either expired or the task associated with it has already been closed.", 400
    )
    return refusal


def _spend(token: str) -> None:
    with _spending:
        _spent.add(token)
    states._task_tokens.pop(token, None)


def _await_callback(answered: threading.Event, token: str, state: Mapping[str, Any], began: float) -> None:
    """Wait for the token to come back, within TimeoutSeconds and HeartbeatSeconds."""
    timeout, heartbeat = state.get("TimeoutSeconds"), state.get("HeartbeatSeconds")
    listening_since = time.monotonic()
    while not answered.wait(_POLL_SECONDS):
        now = time.monotonic()
        error = None
        if timeout is not None and now - began >= timeout:
            error = ("States.Timeout", f"Task timed out after {timeout} seconds")
        elif heartbeat is not None and now - _beats.get(token, listening_since) >= heartbeat:
            error = ("States.HeartbeatTimeout", f"No heartbeat for {heartbeat} seconds")
        elif (states._executions.get(_execution.get()) or {"status": "RUNNING"})["status"] != "RUNNING":
            error = ("States.Runtime", "The execution has ended")
        if error is not None:
            with _spending:
                if answered.is_set():
                    return
                _spent.add(token)
            states._task_tokens.pop(token, None)
            raise states._ExecutionError(*error)


def _within_its_time(original: Callable[[str], None]) -> Callable[[str], None]:
    """Hold an execution to its definition's TimeoutSeconds, and let its tasks know which execution they belong to."""

    def run(execution_arn: str) -> None:
        _execution.set(execution_arn)
        limit = _time_limit(execution_arn)
        if limit is None:
            original(execution_arn)
            return
        context = contextvars.copy_context()
        timer = threading.Timer(limit, context.run, args=(_time_out, execution_arn))
        timer.daemon = True
        timer.start()
        try:
            original(execution_arn)
        finally:
            timer.cancel()

    return run


def _time_limit(execution_arn: str) -> float | None:
    execution = states._executions.get(execution_arn) or {}
    machine = states._state_machines.get(execution.get("stateMachineArn", "")) or {}
    try:
        limit = json.loads(machine.get("definition", "{}")).get("TimeoutSeconds")
    except ValueError:
        return None
    return float(limit) if limit is not None else None


def _time_out(execution_arn: str) -> None:
    execution = states._executions.get(execution_arn)
    if not execution or execution["status"] != "RUNNING":
        return
    execution.update(status="TIMED_OUT", error="States.Timeout", stopDate=states.now_iso())
    states._add_event(execution, "ExecutionTimedOut", {"executionTimedOutEventDetails": {"error": "States.Timeout"}})
    states._emit_execution_status_event(execution)


def _dynamodb_in_turn(_original: object) -> Callable[[str, Any], Any]:
    """Run optimised DynamoDB integrations where HTTP requests run: elsewhere they race, and updates are lost."""
    operations = {
        "PutItem": dynamodb._put_item,
        "GetItem": dynamodb._get_item,
        "DeleteItem": dynamodb._delete_item,
        "UpdateItem": dynamodb._update_item,
    }

    def invoke(operation: str, data: Any) -> Any:
        name = operation[0].upper() + operation[1:]
        context = contextvars.copy_context()

        async def act(*_: object) -> Answer:
            answer: Answer = context.run(operations[name], data)
            return answer

        status, _, body = app.call_service_handler_sync(act, "POST", "/", {}, b"", {})
        answer = json.loads(body) if body else {}
        if status >= 400:
            kind = answer.get("__type", "AmazonDynamoDBException").rsplit("#", 1)[-1].rsplit(".", 1)[-1]
            raise states._ExecutionError(f"DynamoDB.{kind}", answer.get("message", ""))
        return answer

    return invoke
