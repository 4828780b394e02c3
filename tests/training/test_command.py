"""`spotctl models train`, as it lies in the virtual environment: with nothing set up for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from spotctl.failures import ExitCode

SPOTCTL = Path(sys.executable).parent / "spotctl"


def test_training_without_recorded_markets_says_what_is_missing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [str(SPOTCTL), "models", "train", "--out", str(tmp_path / "model"), "--data", str(tmp_path)],
        cwd=tmp_path,
        env={"PATH": os.defpath, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == ExitCode.USAGE, ended.stderr
    assert f"{tmp_path} holds no" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "model").exists()
