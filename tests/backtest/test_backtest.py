"""Policies side by side: the arithmetic by hand, nobody sees the future but the oracle, nothing beats the oracle."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from backtest.__main__ import run as run_backtest
from backtest.generated import generate
from backtest.held_out import MINUTES, choose, judge_struck_rule
from backtest.market import FOREVER, Market, Track, markets_of
from backtest.oracle import foresee
from backtest.ours import optimize
from backtest.replay import ON_DEMAND, Figures, Outcome, Replay
from backtest.report import OURS, RIVALS, all_policies, draw, replay_market
from backtest.rivals import Restarting, cheapest_first
from spot_optimizer.domain.decisions import DecisionRules, StandbyPolicy
from spot_optimizer.domain.risk import AdvisorBand
from tests.training.markets import BANDS, a_trace

EXACT = Figures(boot_spread=0.0)
HOUR = 3_600.0


def a_track(zone: str, up: list[tuple[float, float]], usd_per_hour: str = "0.03") -> Track:
    return Track(f"us-east-1{zone}.m5.large", up, [0.0], [Decimal(usd_per_hour)], AdvisorBand.UNDER_5_PERCENT)


def a_market(*tracks: Track, hours: float = 4.0) -> Market:
    return Market("test", "preemption", 40.0, datetime(2026, 1, 1, tzinfo=UTC), hours * HOUR, tracks, Decimal("0.1"))


def outcome_of(market: Market, policy: str, figures: Figures = EXACT) -> Outcome:
    return replay_market(market, figures, [policy], 300)[policy]


TWO_POOLS = a_market(a_track("a", [(0, HOUR), (3 * HOUR, FOREVER)]), a_track("b", [(0, FOREVER)], "0.04"))


def test_on_demand_costs_what_it_is_compared_with() -> None:
    found = outcome_of(TWO_POOLS, "on-demand")
    assert found.usd == pytest.approx(TWO_POOLS.on_demand_usd)
    assert (found.outage_seconds, found.failovers) == (0, 0)


@pytest.mark.parametrize("policy", [StandbyPolicy.ON_NOTICE, StandbyPolicy.ON_RISK, StandbyPolicy.ALWAYS])
def test_a_notice_costs_clients_one_handover_and_no_state(policy: StandbyPolicy) -> None:
    found = outcome_of(a_market(*TWO_POOLS.tracks, hours=1.5), OURS.format(policy))
    assert found.failovers == 1
    assert found.planned_switches == 0
    assert found.outage_seconds == pytest.approx(EXACT.handover_seconds)
    assert found.lost_state_seconds == 0


def test_the_replacement_is_paid_from_its_launch_and_the_old_primary_to_its_end() -> None:
    found = outcome_of(a_market(*TWO_POOLS.tracks, hours=1.5), OURS.format(StandbyPolicy.ON_NOTICE))
    noticed = HOUR - EXACT.notice_seconds + EXACT.notice_read_after_seconds
    in_b = (1.5 * HOUR - noticed) / HOUR * 0.04
    assert found.usd == pytest.approx(1 * 0.03 + in_b + EXACT.transfer_usd)


def test_a_standby_that_is_always_held_is_paid_all_the_time() -> None:
    market = a_market(a_track("a", [(0, FOREVER)]), a_track("b", [(0, FOREVER)], "0.04"))
    found = outcome_of(market, OURS.format(StandbyPolicy.ALWAYS))
    assert found.usd == pytest.approx(4 * (0.03 + 0.04) + EXACT.transfer_usd)
    assert found.standby_usd == pytest.approx(4 * 0.04)


def test_without_a_standby_ever_the_workload_is_restored_after_the_interruption() -> None:
    found = outcome_of(a_market(*TWO_POOLS.tracks, hours=1.5), OURS.format(StandbyPolicy.NEVER))
    waited = EXACT.mean_boot_seconds + EXACT.transfer_seconds + EXACT.start_seconds
    assert found.outage_seconds == pytest.approx(waited)
    assert found.lost_state_seconds == EXACT.emergency_loss_seconds


def test_a_restart_takes_checkpoint_boot_restore_and_start() -> None:
    found = outcome_of(a_market(*TWO_POOLS.tracks, hours=1.5), "capacity-optimized")
    waited = EXACT.mean_boot_seconds + 2 * EXACT.transfer_seconds + EXACT.start_seconds
    assert found.outage_seconds == pytest.approx(waited)
    on_notice = outcome_of(a_market(*TWO_POOLS.tracks, hours=1.5), "capacity-optimized, launched on notice")
    assert on_notice.outage_seconds == pytest.approx(waited - EXACT.mean_boot_seconds)


def test_a_fixed_pool_waits_for_its_capacity() -> None:
    found = outcome_of(TWO_POOLS, "fixed spot pool, restarted")
    away = 2 * HOUR
    restart = EXACT.mean_boot_seconds + 2 * EXACT.transfer_seconds + EXACT.start_seconds
    assert found.outage_seconds == pytest.approx(away + restart)
    assert found.usd == pytest.approx(2 * 0.03 + EXACT.transfer_usd)


def test_where_no_pool_has_capacity_ours_goes_on_demand_and_returns_to_spot() -> None:
    market = a_market(a_track("a", [(0, HOUR), (1.5 * HOUR, FOREVER)]), hours=4)
    found = outcome_of(market, OURS.format(StandbyPolicy.ON_RISK))
    assert (found.failovers, found.planned_switches, found.lost_state_seconds) == (1, 1, 0)
    assert found.outage_seconds == pytest.approx(2 * EXACT.handover_seconds)
    assert 0.5 * HOUR < found.on_demand_seconds < 0.75 * HOUR


def test_state_too_big_for_a_notice_is_waited_for_unless_a_standby_is_held() -> None:
    big = replace(EXACT, state_bytes=30 * 2.0**30)
    market = a_market(*TWO_POOLS.tracks, hours=1.5)
    on_notice = outcome_of(market, OURS.format(StandbyPolicy.ON_NOTICE), big)
    assert on_notice.outage_seconds > 100
    assert on_notice.lost_state_seconds == big.emergency_loss_seconds
    assert outcome_of(market, OURS.format(StandbyPolicy.ALWAYS), big).outage_seconds == pytest.approx(1.16)
    # At that worth of an outage, a standby costs less than what it averts.
    dear = replace(big, usd_per_outage_second=Decimal(10_000))
    assert outcome_of(market, OURS.format(StandbyPolicy.ON_RISK), dear).outage_seconds == pytest.approx(1.16)


def test_a_replacement_is_not_launched_into_a_pool_that_was_struck_minutes_ago() -> None:
    """a gives notice, the workload goes to b, which goes five minutes later, when a would come back for a moment."""
    market = a_market(
        a_track("a", [(0, HOUR), (HOUR + 40, HOUR + 320)]), a_track("b", [(0, HOUR + 300)], "0.04"), hours=2
    )
    found = outcome_of(market, OURS.format(StandbyPolicy.ON_NOTICE))
    assert (found.failovers, found.lost_state_seconds) == (2, 0)
    assert found.outage_seconds == pytest.approx(2 * EXACT.handover_seconds)
    assert found.on_demand_seconds > 0


POLICIES = [name for name in all_policies() if name != "oracle"]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(POLICIES))
def test_nobody_but_the_oracle_sees_the_future(seed: int, policy: str) -> None:
    """Two markets that are alike for a day and differ afterwards come to the same in that day, notices apart."""
    day = generate(seed=seed, days=1)
    horizon = day.seconds
    calm = replace(
        day,
        tracks=tuple(
            replace(track, up=[(begin, end if end < horizon + 300 else FOREVER) for begin, end in track.up])
            for track in day.tracks
        ),
    )
    struck = replace(
        day,
        tracks=tuple(
            replace(track, up=[(begin, min(horizon + 300, end)) for begin, end in track.up]) for track in day.tracks
        ),
    )
    assert outcome_of(calm, policy) == outcome_of(struck, policy)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_nothing_that_serves_all_the_time_is_cheaper_than_the_oracle(seed: int) -> None:
    market = generate(seed=seed, days=0.5, up_hours=1.0, away_minutes=30)
    best = foresee(market, EXACT).usd
    for policy in (StandbyPolicy.ON_NOTICE, StandbyPolicy.ON_RISK, StandbyPolicy.ALWAYS):
        found = outcome_of(market, OURS.format(policy))
        if found.lost_state_seconds == 0:
            # Only the oracle's clock ticks; what a launch between two ticks saves is less than a tick per move.
            moves = found.failovers + found.planned_switches
            slack = (moves + 1) * 2 * market.tick_seconds / HOUR * float(market.on_demand_usd_per_hour)
            assert best <= found.usd + slack
    assert best <= outcome_of(market, "on-demand").usd + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=6))
def test_the_oracle_finds_what_trying_everything_finds(ticks: list[tuple[bool, bool]]) -> None:
    figures = replace(EXACT, boot_seconds=(20.0, 0.0, 0.0), state_bytes=1e9)
    prices = (0.03, 0.035, 0.1)

    def runs(pool: int) -> list[tuple[float, float]]:
        found: list[tuple[float, float]] = []
        for tick, up in enumerate(ticks):
            if up[pool]:
                begun = found.pop()[0] if found and found[-1][1] == tick * 40.0 else tick * 40.0
                found.append((begun, (tick + 1) * 40.0))
        return found

    market = Market(
        "tiny",
        "preemption",
        40.0,
        datetime(2026, 1, 1, tzinfo=UTC),
        len(ticks) * 40.0,
        (a_track("a", runs(0), "0.03"), a_track("b", runs(1), "0.035")),
        Decimal("0.1"),
    )
    up = [(*tick, True) for tick in ticks]
    costs = []
    for path in product(range(3), repeat=len(ticks)):
        usd = 0.0
        for tick, pool in enumerate(path):
            moved = tick > 0 and path[tick - 1] != pool
            if not up[tick][pool] or (moved and not up[tick - 1][pool]):
                break
            usd += prices[pool] * 40 / HOUR
            if moved:
                usd += prices[pool] * (20 + figures.transfer_seconds) / HOUR + figures.transfer_usd
        else:
            costs.append(usd)
    assert foresee(market, figures).usd == pytest.approx(min(costs))


def test_what_a_market_pays_is_the_integral_of_its_price_steps() -> None:
    track = Track(
        "us-east-1a.m5.large", [(0, FOREVER)], [0.0, HOUR, 2 * HOUR], [Decimal(1), Decimal(3), Decimal(2)], None
    )
    assert track.usd(0.5 * HOUR, 2.5 * HOUR) == pytest.approx(0.5 + 3 + 1)
    assert [track.usd_per_hour(at) for at in (0, HOUR - 1, HOUR, 9 * HOUR)] == [1, 1, 3, 2]
    assert track.end_of_capacity(5.0) == FOREVER


def test_traces_that_ran_side_by_side_become_one_market() -> None:
    (market,) = markets_of([a_trace("us-east-1a", up="1100"), a_trace("us-east-1b", up="0111")], BANDS)
    assert [track.up for track in market.tracks] == [[(0.0, 120.0)], [(60.0, FOREVER)]]
    assert [track.end_of_capacity(60.0) for track in market.tracks] == [120.0, FOREVER]
    assert market.tracks[0].end_of_capacity(120.0) is None
    assert market.tracks[0].band is AdvisorBand.OVER_20_PERCENT


def test_restarting_counts_the_state_that_a_short_life_leaves_no_time_to_save() -> None:
    """Ten seconds are too few for a checkpoint."""
    market = a_market(a_track("a", [(0, 10.0)]), a_track("b", [(10.0, FOREVER)]), hours=1)
    replay = Replay(market, EXACT, random.Random(1))
    Restarting(cheapest_first).run(replay)
    assert 0 < replay.outcome.lost_state_seconds <= 10


def test_boots_have_the_measured_mean() -> None:
    coin = random.Random(3)
    drawn = [Figures().draw_boot_seconds(coin) for _ in range(4_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(25.8, abs=0.3)


def test_on_demand_is_never_taken_back() -> None:
    instance = Replay(TWO_POOLS, EXACT, random.Random(1)).launch(ON_DEMAND, 5.0)
    assert instance is not None
    assert instance.interrupted == FOREVER


def test_without_recorded_markets_generated_ones_are_replayed_and_the_answer_says_so(tmp_path: Path) -> None:
    result = run_backtest(tmp_path, Console(quiet=True), workers=1)
    assert result["generated"]
    assert result["net_saving_2021"] is None
    assert set(result["policies"]) == {*RIVALS, *map(OURS.format, StandbyPolicy), "oracle"}
    for one in result["policies"].values():
        assert {"cost_ratio", "outage_seconds_per_30d", "failovers_per_30d", "lost_state_seconds_per_30d"} <= set(one)
    assert result["cost_ratio_to_oracle"] >= 0.99
    assert result["outage_ratio_to_best_rival"] < 1
    draw(result["policies"], tmp_path / "plot.png", title="generated")
    assert (tmp_path / "plot.png").stat().st_size > 5_000


def test_the_same_seed_gives_the_same_outcome() -> None:
    market = generate(seed=4, days=1)
    first, second = (Replay(market, Figures(), random.Random(1)) for _ in range(2))
    for replay in (first, second):
        optimize(replay, DecisionRules())
    assert first.outcome == second.outcome


def test_how_long_a_struck_pool_is_left_alone_is_judged_on_markets_that_did_not_choose() -> None:
    markets = [generate(seed=seed, days=0.5) for seed in range(3)]
    found = judge_struck_rule(markets, EXACT, workers=1)
    assert found["shipped_minutes"] == 10
    over_all = found["outage_seconds_per_30d"]["all"]
    assert over_all.keys() == set(MINUTES)
    held_out = found["chosen_by_the_others"]
    assert sum(held_out["times_chosen"].values()) == len(markets)
    assert held_out["outage_seconds_per_30d"] >= min(over_all.values()) - 0.1


def test_minutes_are_chosen_by_the_least_outage_and_the_fewest_of_equals() -> None:
    assert choose([{0: 5.0, 3: 1.0, 10: 2.0, 30: 9.0}, {0: 0.0, 3: 2.0, 10: 1.0, 30: 9.0}]) == 3
    assert choose([dict.fromkeys(MINUTES, 1.0)]) == 0
