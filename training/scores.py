"""How good probabilities are: AUC, Brier score and F1, with intervals by a bootstrap over blocks.

Examples five minutes apart are nearly the same example. The bootstrap therefore draws whole blocks, of one pool and six
hours each, and its intervals are as wide as that little data makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 400


@dataclass(frozen=True)
class Predicted:
    """What one predictor said of the test examples.

    Attributes:
        probability: (examples,).
        positive: (examples,); whether it is above the threshold that was best on the training examples before it.
    """

    probability: Floats
    positive: NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """A figure, and between what it lies with 95 % confidence."""

    value: float
    low: float
    high: float


def auc(labels: Floats, probability: Floats) -> float:
    """Probability that an interrupted example is ranked above one that is not; ties count half."""
    order = np.argsort(probability, kind="stable")
    ordered = probability[order]
    _, first, counts = np.unique(ordered, return_index=True, return_counts=True)
    ranks = np.empty(len(labels))
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    positives = float(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    return (float(ranks[labels == 1].sum()) - positives * (positives + 1) / 2) / (positives * negatives)


def brier(labels: Floats, probability: Floats) -> float:
    """Mean squared error of the probabilities."""
    return float(np.mean((probability - labels) ** 2))


def f1(labels: Floats, positive: NDArray[np.bool_]) -> float:
    """Harmonic mean of precision and recall of the interrupted ones."""
    hits = float((positive & (labels == 1)).sum())
    said_or_true = float(positive.sum() + (labels == 1).sum())
    return 2 * hits / said_or_true if said_or_true else 0.0


def f1_macro(labels: Floats, positive: NDArray[np.bool_]) -> float:
    """Mean of F1 of the interrupted and of the others."""
    return (f1(labels, positive) + f1(1 - labels, ~positive)) / 2


def best_threshold(labels: Floats, probability: Floats) -> float:
    """The threshold with the highest F1-macro, among the percentiles."""
    candidates = np.unique(np.quantile(probability, np.linspace(0.02, 0.98, 49)))
    return float(max(candidates, key=lambda one: f1_macro(labels, probability > one)))


def calibration_error(labels: Floats, probability: Floats, bins: int = 10) -> float:
    """Expected calibration error over bins of equal counts."""
    error = 0.0
    for part in np.array_split(np.argsort(probability, kind="stable"), bins):
        error += len(part) / len(labels) * abs(float(probability[part].mean()) - float(labels[part].mean()))
    return error


def score(
    labels: Floats,
    predicted: Mapping[str, Predicted],
    block: NDArray[np.int64],
    coin: np.random.Generator,
    *,
    draws: int,
) -> tuple[dict[str, dict[str, Interval]], dict[str, Interval]]:
    """Score every predictor on the same draws.

    Args:
        labels: (examples,).
        predicted: By predictor; `model` is one.
        block: (examples,).
        coin: Draws the blocks.
        draws: How often.

    Returns:
        Metrics by predictor; and by predictor other than the model, how much lower the model's Brier score is.
    """

    def metrics(chosen: NDArray[np.int64]) -> dict[tuple[str, str], float]:
        truth = labels[chosen]
        found = {}
        for name, one in predicted.items():
            found[name, "auc"] = auc(truth, one.probability[chosen])
            found[name, "brier"] = brier(truth, one.probability[chosen])
            found[name, "f1"] = f1(truth, one.positive[chosen])
            found[name, "f1_macro"] = f1_macro(truth, one.positive[chosen])
        return found

    members = [np.flatnonzero(block == number) for number in np.unique(block)]
    whole = metrics(np.arange(len(labels)))
    drawn = [
        metrics(np.concatenate([members[n] for n in coin.integers(0, len(members), len(members))]))
        for _ in range(draws)
    ]

    def interval(values: list[float], value: float) -> Interval:
        low, high = np.nanquantile(values, (0.025, 0.975))
        return Interval(round(value, 4), round(float(low), 4), round(float(high), 4))

    scores: dict[str, dict[str, Interval]] = {}
    for name, metric in whole:
        scores.setdefault(name, {})[metric] = interval([draw[name, metric] for draw in drawn], whole[name, metric])
    gains = {
        name: interval(
            [draw[name, "brier"] - draw["model", "brier"] for draw in drawn],
            whole[name, "brier"] - whole["model", "brier"],
        )
        for name in predicted
        if name != "model"
    }
    return scores, gains
