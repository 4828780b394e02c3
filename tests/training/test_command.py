"""`spotctl models train` without what it needs."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from spotctl.failures import ExitCode, NotUnderstood
from spotctl.main import app


def test_training_without_recorded_markets_says_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["models", "train", "--data", str(tmp_path), "--out", str(tmp_path / "model")])
    assert isinstance(result.exception, NotUnderstood)
    assert result.exception.exit_code is ExitCode.USAGE
    assert f"{tmp_path} holds no" in result.exception.detail
    assert not (tmp_path / "model").exists()
