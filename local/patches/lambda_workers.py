"""Lambda: errors keep their class name, functions see their own layers only, invocations do not wait for logs."""
# ruff: noqa: SLF001 - patches the emulator's insides, by design

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import tempfile
import threading
import zipfile
from pathlib import Path

import ministack.core.lambda_runtime as runtime
from ministack.services import lambda_svc

from local.instances import RUN_VARIABLE
from local.patches.rewriting import MinistackChanged, replace_text, rewrite

_FIRST_LINE_WAIT, _IDLE, _HARD_CAP = 0.003, 0.002, 0.25

_RUNTIME_PACKAGES = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six")
"""What AWS's own Python runtime brings along, and nothing else."""


def apply() -> None:
    """Patch Lambda."""
    _say_what_failed()
    _keep_the_environment_after_an_error()
    _answer_without_waiting_for_logs()
    _isolate_workers()
    _answer_500_as_http_apis_do()


def _say_what_failed() -> None:
    patch = "lambda errorType"
    script = runtime._PYTHON_WORKER_SCRIPT
    script = replace_text(
        patch,
        script,
        '{"status": "error", "error": str(e), "trace": traceback.format_exc()}',
        '{"status": "error", "error": str(e), "error_type": type(e).__name__, "raised": True, '
        '"stack": traceback.format_tb(e.__traceback__)[1:], "trace": traceback.format_exc()}',
    )
    script = replace_text(
        patch,
        script,
        '_real_stdout.write(json.dumps({"status": "error", "error": str(e)}) + "\\n")',
        '_real_stdout.write(json.dumps({"status": "error", "error": traceback.format_exc()}) + "\\n")',
    )
    # As on AWS: the function's own folder comes before every layer.
    script = replace_text(
        "lambda import order",
        script,
        "    # After sys.path is complete",
        "    sys.path.remove(code_dir); sys.path.insert(0, code_dir)\n"
        '    sys.path.append(os.environ["LOCAL_AWS_RUNTIME_PACKAGES"])\n'
        "    # After sys.path is complete",
    )
    runtime._PYTHON_WORKER_SCRIPT = script
    rewrite(
        patch,
        lambda_svc,
        "_execute_function_warm",
        {
            'error_type = "Runtime.HandlerError"': (
                'error_type = result.get("error_type") or ('
                '"Runtime.ExitError" if error_msg == "Worker process died" else "Runtime.HandlerError")'
            ),
            '"errorType": error_type,\n': (
                '"errorType": error_type,\n'
                '                    "requestId": request_id,\n'
                '                    "stackTrace": result.get("stack", []),\n'
            ),
        },
    )


def _keep_the_environment_after_an_error() -> None:
    """A handler that raises does not lose its execution environment; only a crash or a timeout does."""
    rewrite(
        "lambda environment survives a raised error",
        runtime.Worker,
        "invoke",
        {
            'if response.get("status") == "error":': (
                'if response.get("status") == "error" and not response.get("raised"):'
            )
        },
    )


def _answer_without_waiting_for_logs() -> None:
    defaults = runtime.Worker._drain_stderr_bounded.__defaults__
    if defaults != (0.05, 0.005, 0.25):
        raise MinistackChanged(f"patch 'lambda log wait': the waits are {defaults}")
    runtime.Worker._drain_stderr_bounded.__defaults__ = (_FIRST_LINE_WAIT, _IDLE, _HARD_CAP)


def _isolate_workers() -> None:
    """Run workers without this interpreter's site-packages, and unzip each layer and each function once."""
    unzipped = _Unzipped(Path(tempfile.gettempdir()) / "unzipped")
    rewrite(
        "lambda isolation",
        runtime.Worker,
        "_spawn",
        {
            "        [binary, worker_path],\n": (
                '        [binary, *(["-S"] if runtime.startswith("python") else []), worker_path],\n'
            ),
            "spawn_env = {**os.environ, **env_vars}": "spawn_env = {**_local_environment, **env_vars}",
            # One folder for all workers of a layer: the second cold start finds it unzipped and compiled.
            (
                '                layer_dir = os.path.join(self._tmpdir, f"layer_{len(layers_dirs)}")\n'
                "                os.makedirs(layer_dir)\n"
            ): ("                layers_dirs.append(_local_unzipped(layer_data))\n                continue\n"),
        },
        given={"_local_environment": _worker_environment(), "_local_unzipped": unzipped.folder_of},
    )


def _worker_environment() -> dict[str, str]:
    """What a function finds in its environment besides its own variables and AWS's."""
    packages = Path(tempfile.gettempdir()) / "runtime-packages"
    packages.mkdir(exist_ok=True)
    for name in _RUNTIME_PACKAGES:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            origin = Path(found.origin)
            target = origin.parent if origin.name == "__init__.py" else origin
            link = packages / target.name
            if not link.exists():
                link.symlink_to(target)
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "TZ": ":UTC",
        "TMPDIR": tempfile.gettempdir(),
        "HOME": tempfile.gettempdir(),
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_EC2_METADATA_DISABLED": "true",
        "LOCAL_AWS_RUNTIME_PACKAGES": str(packages),
        RUN_VARIABLE: os.environ[RUN_VARIABLE],
    }


class _Unzipped:
    """Archives by content, each unzipped once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()

    def folder_of(self, archive: bytes) -> str:
        folder = self._root / hashlib.sha256(archive).hexdigest()[:16]
        with self._lock:
            if not folder.exists():
                growing = folder.with_suffix(".growing")
                shutil.rmtree(growing, ignore_errors=True)
                with zipfile.ZipFile(io.BytesIO(archive)) as zipped:
                    zipped.extractall(growing)
                growing.rename(folder)
        return str(folder)


def _answer_500_as_http_apis_do() -> None:
    """A function that fails behind an HTTP API shows its caller nothing of the failure."""
    rewrite(
        "http api answers 500",
        lambda_svc,
        "lambda_execute_result_to_api_proxy_response",
        {
            '            "statusCode": 502,\n': '            "statusCode": 500,\n',
            "        payload = json.dumps(err_body) if isinstance(err_body, dict) else str(err_body)\n": (
                '        payload = json.dumps({"message": "Internal Server Error"})\n'
            ),
        },
    )
