"""Has a pickle converted in a process that is given nothing of this one's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from spotctl.failures import Document, ExitCode, Failure

WHY_NOT_IN_THE_CLOUD = (
    "Loading a pickle or a joblib file runs whatever code its author put into it, with the rights of whoever loads it. "
    "So none is ever loaded in the cloud. Here it is loaded once, in a process of its own without your token and "
    "credentials, and written as XGBoost's own format and JSON, which hold data alone. Convert only what you trust."
)
LONGEST_SECONDS = 600.0
_PROGRAM = Path(__file__).with_name("conversion.py")


def convert_apart(order: Document) -> Document:
    """Run `conversion.py` and tell what it found.

    Args:
        order: As its `main` takes it.

    Raises:
        Failure: It did not convert, and why.
    """
    bare = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_PROGRAM), json.dumps(order)],
            env=bare,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failure(ExitCode.FAILED, "Not converted", f"it took longer than {error.timeout:.0f} s") from error
    if done.returncode != 0:
        [last] = done.stderr.strip().splitlines()[-1:] or ["it ended without a word"]
        advice = "install what it needs: pip install 'spotctl[convert]'" if "No module named" in last else None
        raise Failure(ExitCode.INVALID, "Not converted", last, advice=advice)
    found: Document = json.loads(done.stdout.strip().splitlines()[-1])
    return found
