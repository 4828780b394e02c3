"""`python -m training`: train the risk model on the recorded markets and print how good it is."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.card import METRICS, verdict
from training.pipeline import Trained, train_on_recorded
from training.recorded import ROOT, DataMissing


def show(trained: Trained, console: Console) -> None:
    """Print the metrics of every predictor, and what is the default and why."""
    for hours, report in trained.reports.items():
        table = Table(
            title=f"Interrupted within {hours} h: {report.examples:,} tests, base rate {report.base_rate:.1%}"
        )
        table.add_column("predictor")
        for name in METRICS.values():
            table.add_column(name, justify="right")
        for name, scores in report.scores.items():
            cells = (f"{scores[key].value:.3f} [{scores[key].low:.3f}, {scores[key].high:.3f}]" for key in METRICS)
            table.add_row(name, *cells)
        console.print(table)
        console.print(f"default within {hours} h: {report.default}. {verdict(asdict(report))}\n", highlight=False)
    console.print(f"written to {trained.folder}: the model, its manifest, card.md and calibration.png")


def main() -> None:
    """Train, write, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "model", help="where the model goes")
    console = Console()
    try:
        show(train_on_recorded(parser.parse_args().out), console)
    except DataMissing as missing:
        raise SystemExit(str(missing)) from missing


if __name__ == "__main__":
    main()
