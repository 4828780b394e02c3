"""Plans that once broke an invariant: those that seeds stood for when they failed, and those that were shrunk.

How plans are drawn from seeds changes with every fault that is added, so what is kept is the plan.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simulation.faults import Fault, Plan


def _read(seed: str, written: dict[str, Any]) -> Plan:
    faults = tuple(Fault(**fault) for fault in written["faults"])
    return Plan(int(seed), written["with_standby"], faults, written["calm_at"], fair=written["fair"])


KEPT_SEEDS = {
    int(seed): _read(seed, written)
    for seed, written in json.loads((Path(__file__).parent / "kept_seeds.json").read_text(encoding="utf-8")).items()
}

KEPT_PLANS = {
    "an agent is restarted after its standby was let go": Plan(
        398,
        True,
        (
            Fault("operator-terminate", 12.49, "primary"),
            Fault("kill-agent", 15.44, "primary", 0.3),
        ),
        31.6,
    ),
    "an agent dies between deciding to freeze and freezing": Plan(
        800,
        True,
        (
            Fault("notice", 3.71, "primary"),
            Fault("strike-kill", 0.0, "agent:Freeze!", 0.3),
        ),
        40.0,
    ),
    "the first generation is held and never acknowledged": Plan(
        151,
        True,
        (
            Fault("lose", 0.2, "acknowledgement", 19.5, 1.0),
            Fault("death", 6.5, "primary"),
        ),
        37.2,
    ),
    "the promoted standby dies while the former primary lives": Plan(
        13,
        True,
        (
            Fault("notice", 5.0, "primary"),
            Fault("death", 12.2, "primary"),
        ),
        40.0,
    ),
    "both go within the two minutes": Plan(
        23,
        True,
        (
            Fault("notice", 5.0, "primary"),
            Fault("notice", 5.5, "standby"),
        ),
        20.0,
    ),
    "answers take longer than the next withdrawal": Plan(
        6,
        True,
        (
            Fault("delay", 20.0, "answer to unready", 28.0),
            Fault("partition", 27.4, "standby primary", 3.8),
        ),
        55.0,
    ),
    "the execution of a new replica can not be started": Plan(
        3382,
        False,
        (
            Fault("unknown", 4.4, "start*", 30.0),
            Fault("operator-create", 4.8),
        ),
        40.0,
    ),
    "readiness is being taken back when the handover opens": Plan(
        1617,
        True,
        (
            Fault("throttle", 6.1, "replica", 14.4, 0.5),
            Fault("pause-agent", 6.5, "primary", 1.6),
            Fault("notice", 7.0, "primary"),
        ),
        42.0,
    ),
    "an old final generation hides a dead primary": Plan(
        586,
        True,
        (
            Fault("operator-promote", 5.5),
            Fault("lose", 6.4, "lease answer", 26.7, 1.0),
            Fault("death", 11.2, "primary"),
        ),
        39.4,
    ),
    "a standby that is linked to again is sent nothing over its final generation": Plan(
        15156,
        True,
        (
            Fault("fail", 2.58, "quiesce", 3.18, 0.7),
            Fault("notice", 5.13, "primary"),
            Fault("notice", 5.13, "standby"),
            Fault("pause-agent", 5.13, "primary", 5.74),
            Fault("partition", 6.4, "standby control-plane", 8.06),
            Fault("wall-jump", 9.01, "control-plane"),
        ),
        43.85,
    ),
    "the control plane's clock is set back before a fall back": Plan(
        18461,
        True,
        (
            Fault("strike-pause", 0.0, "*:commit traffic moved", 0.47, rival="death"),
            Fault("strike-pause", 0.0, "*:commit promote", 0.99, rival="abort"),
            Fault("operator-promote", 6.78),
            Fault("strike-kill", 19.86, "agent:AskLease", 2.49, nth=2),
            Fault("wall-jump", 27.65, "control-plane"),
        ),
        32.24,
    ),
    "a launch without an answer is followed up until it is known": Plan(
        29861,
        True,
        (
            Fault("strike-pause", 0.0, "*:commit report unready", 5.66, rival="operator-terminate"),
            Fault("unknown", 6.9, "launch", 37.03),
            Fault("rebalance", 12.8, "primary"),
        ),
        44.73,
    ),
    "a replica that could not be prepared is ended however long that takes": Plan(
        24443,
        True,
        (
            Fault("pause-agent", 6.46, "standby", 1.4),
            Fault("notice", 10.89, "primary"),
            Fault("operator-create", 15.01),
            Fault("throttle", 15.09, "agent", 37.72),
        ),
        59.43,
    ),
    "an address is moved back by a mover that was slow": Plan(
        424,
        True,
        (
            Fault("notice", 8.24, "primary"),
            Fault("notice", 8.24, "standby"),
            Fault("strike-pause", 0.0, "ReconcileTraffic:move_address", 48.96),
        ),
        98.24,
    ),
    "a preparation fails when its standby is ready and the primary has just died": Plan(
        144,
        False,
        (
            Fault("rebalance", 3.87, "primary"),
            Fault("strike-pause", 0.0, "*:commit release replica", 28.59, rival="death"),
            Fault("lose", 20.0, "commit", 150.0),
            Fault("lose", 20.0, "silent", 150.0),
            Fault("throttle", 20.87, "commit store task token", 150.0),
        ),
        173.87,
    ),
}
