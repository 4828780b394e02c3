"""`python -m training`: train the risk model on the recorded markets and print how good it is."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.card import METRICS, verdict
from training.pipeline import Report, Trained, train_on_recorded
from training.recorded import ROOT, DataMissing

FOLDED = ("model", "base rate", "last-known band", "own recent rate")
"""Whose Brier score is shown fold by fold."""


UNWATCHED_WIDTH = 120
"""Of the tables where nobody watches, so that no row breaks."""


def show(trained: Trained, console: Console) -> None:
    """Print the metrics of every predictor, over all folds and fold by fold, and what is the default and why."""
    for hours, report in trained.reports.items():
        table = Table(
            title=f"Interrupted within {hours} h: {report.examples:,} tests in {len(report.folds)} time-ordered folds, "
            f"base rate {report.base_rate:.1%}; in brackets 95 % intervals"
        )
        table.add_column("predictor")
        for name in METRICS.values():
            table.add_column(name, justify="right")
        for name, scores in report.scores.items():
            cells = (f"{scores[key].value:.3f} [{scores[key].low:.3f}, {scores[key].high:.3f}]" for key in METRICS)
            table.add_row(name, *cells)
        console.print(table)
        console.print(_fold_by_fold(report))
        console.print(f"default within {hours} h: {report.default}. {verdict(asdict(report))}\n", highlight=False)
    console.print(f"written to {trained.folder}: the model, its manifest, card.md and calibration.png")


def _fold_by_fold(report: Report) -> Table:
    table = Table(title="Brier score, fold by fold")
    for name in ("tested from", "until"):
        table.add_column(name)
    for name in ("examples", *FOLDED):
        table.add_column(name, justify="right")
    for fold in report.folds:
        scores = (f"{fold.brier[name]:.3f}" for name in FOLDED)
        table.add_row(fold.tested_from[:16], fold.tested_until[:16], f"{fold.examples:,}", *scores)
    return table


def main() -> None:
    """Train, write, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "model", help="where the model goes")
    parser.add_argument("--data", type=Path, help="the folder of recorded markets; SPOT_DATA_DIR by default")
    console = Console(width=None if sys.stdout.isatty() else UNWATCHED_WIDTH)
    asked = parser.parse_args()
    try:
        show(train_on_recorded(asked.out, folder=asked.data), console)
    except DataMissing as missing:
        raise SystemExit(str(missing)) from missing


if __name__ == "__main__":
    main()
