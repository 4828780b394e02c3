"""Has a model trained by the repository's pipeline, where this command line lies in the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from spotctl.failures import NotUnderstood

REPOSITORY = Path(__file__).resolve().parents[2]
_IMPORTED_FROM = (".", "layers/shared/python", "layers/ml/python")


def train_apart(out: Path, data: Path | None) -> None:
    """Run the pipeline in a process of its own, which prints how good the model is.

    Args:
        out: Where the model goes.
        data: The folder of recorded markets; what SPOT_DATA_DIR names without it.

    Raises:
        NotUnderstood: The pipeline is not here, or the recorded markets are not there.
    """
    if not (REPOSITORY / "training" / "pipeline.py").is_file():
        raise NotUnderstood(
            "the training pipeline is not here: an installed spotctl alone does not carry it",
            advice="run `make train`, or `.venv/bin/spotctl models train`, in the repository",
        )
    options = ["--out", str(out), *(["--data", str(data)] if data else [])]
    paths = os.pathsep.join(str(REPOSITORY / folder) for folder in _IMPORTED_FROM)
    done = subprocess.run(
        [sys.executable, "-m", "training", *options],
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        [why] = done.stderr.strip().splitlines()[-1:] or ["it ended without a word"]
        raise NotUnderstood(f"nothing was trained: {why}", advice="--data names the folder of recorded markets")
