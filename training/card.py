"""The model card: what a model was made of, how good it is, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from spot_optimizer.domain.models import Manifest

METRICS = {"auc": "AUC", "brier": "Brier score", "f1": "F1", "f1_macro": "F1-macro"}


def draw_calibration(reliability: Mapping[int, Sequence[tuple[float, float]]], path: Path) -> None:
    """Draw what was said against what happened.

    Args:
        reliability: By horizon in hours: (mean probability, share interrupted) of ten groups.
        path: Of the PNG.
    """
    figure, axes = plt.subplots(figsize=(4.6, 4.2), dpi=110)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="perfect")
    for hours, points in reliability.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=f"within {hours} h")
    axes.set(
        xlabel="probability said", ylabel="share interrupted", xlim=(0, 1), ylim=(0, 1), title="Calibration on tests"
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def write_card(
    path: Path, manifest: Manifest, reports: Mapping[int, Mapping[str, Any]], data: Mapping[str, Any]
) -> None:
    """Write the card beside the model.

    Args:
        path: Of the card.
        manifest: Of the model.
        reports: By horizon in hours: `pipeline.Report` as a mapping.
        data: What the examples come from: pools, interruptions, examples, from, until, traces; among how many settings
            was chosen (`choices`), and which is written by horizon (`settings`).
    """
    tested = manifest.test_span
    lines = [
        "# Risk model",
        "",
        "Probability that a held spot instance of a pool is interrupted within 1 h and within 6 h. Gradient-boosted",
        "trees (XGBoost) over causal features, calibrated by a logistic fit on the latest quarter of the training.",
        "",
        "## Data",
        f"{data['examples']:,} examples, one every five minutes, of {data['pools']} pools in which an instance was",
        f"held and launched again after each interruption, from {data['from']} to {data['until']}.",
        f"Behind them stand {data['interruptions']} interruptions. Examples of one spell are nearly alike: it is this",
        "number that counts, and it is small.",
        "",
        f"What is written here was trained on {manifest.training_span.start.isoformat()} to",
        f"{manifest.training_span.end.isoformat()} and tested on the rest, to {tested.end.isoformat()}; the manifest's",
        "metrics are of that test. The folds below train such a model five times and say whether it is worth having.",
        "",
        f"Depth, least evidence of a leaf, penalty and strength of the calibration were chosen among {data['choices']}",
        "settings by two later tests inside what each was trained on, so no test had a part in what it tests. What is",
        "written has: " + "; ".join(f"within {hours} h {_words(one)}" for hours, one in data["settings"].items()) + ".",
        "",
        f"Features, in order: {', '.join(manifest.features)}.",
        "",
    ]
    for hours, report in reports.items():
        lines += [
            f"## Within {hours} h",
            f"{report['examples']:,} test examples in {len(report['folds'])} folds, each at least {hours} h later than",
            f"what it was trained on; base rate {report['base_rate']:.1%}. In brackets 95 % intervals by a bootstrap",
            "over blocks of one pool and six hours. Thresholds of F1 were chosen on the training part of each fold.",
            "",
            *score_table(report),
            "",
            f"Expected calibration error {report['calibration_error']:.3f}.",
            f"Used by default: **{report['default']}**. {verdict(report)}",
            "",
            "| tested from | until | examples | AUC: model | own rate | Brier: model | own rate | base rate | chosen |",
            "|---|---|---|---|---|---|---|---|---|",
            *(
                f"| {fold['tested_from']} | {fold['tested_until']} | {fold['examples']} | {fold['auc']['model']} "
                f"| {fold['auc']['own recent rate']} | {fold['brier']['model']} | {fold['brier']['own recent rate']} "
                f"| {fold['brier']['base rate']} | {_words(fold['setting']._asdict())} |"
                for fold in report["folds"]
            ),
            "",
        ]
    lines += [
        "![Calibration](calibration.png)",
        "",
        "## Limits",
        "- Two instance types, two regions, ten days of spring 2023, in pools that are interrupted far more often",
        "  than their advisor band (over 20 % a month) tells. It was never tested in calm pools: there the band and",
        "  the pool's own history are the better guides, until one's own fleet has been interrupted often enough.",
        "- All pools stand in the same advisor band, so nothing can have been learnt from the band.",
        "- The hour at which a recording began is not known, so time of day is no feature; nor are placement scores.",
        "- A relative price can stand for the pool itself: so few pools do not tell one from the other.",
        "- The lead over the pool's own recent rate is small. No setting was chosen by a test, but features and the",
        "  directions of risk were laid down by people who knew these traces, and no others were recorded. The next",
        "  data will tell.",
        "- F1-macro of 0.85 at 60 minutes is published for a private data set (arXiv 2604.16457). That is far from",
        "  what these public traces support.",
        "",
    ]
    path.write_text("\n".join(lines))


def _words(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items())


def score_table(report: Mapping[str, Any]) -> list[str]:
    """The metrics of every predictor as a Markdown table."""
    return [
        f"| predictor | {' | '.join(METRICS.values())} |",
        "|---" * (len(METRICS) + 1) + "|",
        *(
            f"| {name} | "
            + " | ".join(f"{one[key]['value']:.3f} [{one[key]['low']:.3f}, {one[key]['high']:.3f}]" for key in METRICS)
            + " |"
            for name, one in report["scores"].items()
        ),
    ]


def verdict(report: Mapping[str, Any]) -> str:
    """Why that is the default."""
    gains = ", ".join(
        f"{gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}] against {name}"
        for name, gain in report["brier_gains"].items()
    )
    if report["default"] == "model":
        return f"Its Brier score is lower, with 95 % confidence, by {gains}."
    return f"The model's Brier score is lower by {gains}: not better with 95 % confidence, so it is not the default."
