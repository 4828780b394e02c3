"""Prices over HTTP: what agents report, row by row, and what operators read."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from functions.collect_prices import handler as collect_prices
from spot_optimizer import bootstrap, wiring
from spot_optimizer.domain import pools_of_interest
from spot_optimizer.domain.gaps import fill
from spot_optimizer.domain.prices import bucket_of, bucket_start
from spot_optimizer.domain.risk import AdvisorBand
from spot_optimizer.domain.tokens import OperatorRole
from spot_optimizer.domain.writes import Change, Table
from tests.api.conftest import Answered, Http, Registration
from tests.fakes import FakeAdvisor, FakePriceList

POOL = "us-east-1a.m5.large"
OTHER = "us-east-1b.m5.large"
type Rows = Callable[[], dict[str, Any]]


@pytest.fixture
def viewer(http: Http) -> str:
    return bootstrap.create_operator_token(OperatorRole.VIEWER)


@pytest.fixture
def pools(http: Http, agent: Registration) -> None:
    """Two pools of interest; what the first costs on demand is known."""
    for pool_id in (POOL, OTHER):
        taken_up = pools_of_interest.want(pool_id, (agent.agent_id,), None)
        assert taken_up is not None
        wiring.prices().note_pools([taken_up])
    priced = Change(Table.POOLS, (POOL,), "price", put={"on_demand_usd_per_hour": Decimal("0.096")})
    wiring.prices().note_pools([priced])


pytestmark = pytest.mark.usefixtures("pools")


def ago(minutes: float) -> datetime:
    """A moment in the middle of a bucket, so that a test is never cut in two by the end of one."""
    middle = bucket_start(bucket_of(datetime.now(UTC) - timedelta(minutes=5))) + timedelta(seconds=150)
    return middle - timedelta(minutes=minutes)


def a_row(minutes_ago: float = 0, **changes: Any) -> dict[str, Any]:
    row = {"pool_id": POOL, "observed_at": ago(minutes_ago).isoformat(), "usd_per_hour": "0.035"} | changes
    return {name: value for name, value in row.items() if value is not ...}


def report(agent: Registration, *rows: Any, submission_id: str = "sub-1", **more: Any) -> Answered:
    return agent.call("POST", "/pricing", {"submission_id": submission_id, "rows": list(rows)}, **more)


def outcomes(answer: Answered) -> list[str]:
    assert answer.status == 200, answer.body
    return [row["refusal"] or row["outcome"] for row in answer.body["rows"]]


def prices(http: Http, token: str, pool_id: str = POOL, **query: str) -> list[dict[str, Any]]:
    answer = http.call("GET", f"/api/pools/{pool_id}/prices", token=token, query=query)
    assert answer.status == 200, answer.body
    return [point | {"usd_per_hour": plain(point["usd_per_hour"])} for point in answer.body["points"]]


def plain(usd_per_hour: str) -> str:
    """A price without the zeros at its end."""
    return f"{Decimal(usd_per_hour).normalize():f}"


def test_a_report_is_shown_with_source_and_confidence(http: Http, agent: Registration, viewer: str) -> None:
    assert outcomes(report(agent, a_row(10), a_row(5, usd_per_hour="0.0361"))) == ["kept", "kept"]
    points = prices(http, viewer)
    assert [(point["usd_per_hour"], point["source"], point["confidence"]) for point in points] == [
        ("0.035", "primary-agent", "1.00"),
        ("0.0361", "primary-agent", "1.00"),
    ]
    assert not any(point["is_inferred"] for point in points)
    [pool, other] = http.call("GET", "/api/pools", token=viewer).body["pools"]
    assert (pool["pool_id"], plain(pool["latest"]["usd_per_hour"])) == (POOL, "0.0361")
    assert pool["on_demand_usd_per_hour"] == "0.096"
    assert (other["pool_id"], other["latest"]) == (OTHER, None)


def test_a_repeated_report_changes_nothing(agent: Registration, rows: Rows) -> None:
    report(agent, a_row(10), a_row(5))
    before = rows()
    assert outcomes(report(agent, a_row(10), a_row(5))) == ["not-better", "not-better"]
    after = rows()
    raw = next(name for name in after if "raw" in name)
    assert [{**row, "submitted_at": 0, "forget_at": 0} for row in after.pop(raw)] == [
        {**row, "submitted_at": 0, "forget_at": 0} for row in before.pop(raw)
    ]
    assert after == before


def test_the_latest_price_of_a_bucket_counts_in_whatever_order_they_come(
    http: Http, agent: Registration, viewer: str
) -> None:
    late, early = a_row(0, usd_per_hour="0.04"), a_row(1, usd_per_hour="0.03")
    assert outcomes(report(agent, late, early)) == ["kept", "superseded"]
    assert outcomes(report(agent, a_row(0.5, usd_per_hour="0.05"), submission_id="sub-2")) == ["not-better"]
    assert [point["usd_per_hour"] for point in prices(http, viewer)] == ["0.04"]


@pytest.mark.parametrize(
    ("row", "refusal"),
    [
        (a_row(usd_per_hour="-1"), "not-positive"),
        (a_row(usd_per_hour=0), "not-positive"),
        (a_row(usd_per_hour="NaN"), "not-a-price"),
        (a_row(usd_per_hour="Infinity"), "not-a-price"),
        (a_row(usd_per_hour=float("nan")), "not-a-price"),
        (a_row(usd_per_hour="9.61"), "absurd"),
        (a_row(usd_per_hour=True), "not-a-price"),
        (a_row(usd_per_hour=None), "not-a-price"),
        (a_row(usd_per_hour=["0.03"]), "not-a-price"),
        (a_row(usd_per_hour="0.0350000001"), "too-precise"),
        (a_row(-30), "future"),
        (a_row(60 * 24 * 91), "ancient"),
        (a_row(observed_at="yesterday"), "not-a-time"),
        (a_row(observed_at="2026-03-01T12:00:00"), "not-a-time"),
        (a_row(pool_id="eu-west-9z.m5.large"), "unknown-pool"),
        (a_row(pool_id=7), "unknown-pool"),
        (a_row(pool_id="x" * 5000), "unknown-pool"),
        (a_row(currency="EUR"), "wrong-currency"),
        (a_row(product="Windows"), "wrong-product"),
        (a_row(colour="red"), "unknown-field"),
        ("a row", "malformed"),
        (None, "malformed"),
    ],
)
def test_a_bad_row_is_refused_with_a_reason_counted_and_costs_no_other(
    http: Http, agent: Registration, viewer: str, capsys: pytest.CaptureFixture[str], row: Any, refusal: str
) -> None:
    answer = report(agent, a_row(10), row, a_row(5))
    assert outcomes(answer) == ["kept", refusal, "kept"]
    assert len(answer.body["rows"][1]["message"].split()) >= 3
    assert answer.body["counts"] == {"kept": 2, "not-better": 0, "superseded": 0, "refused": 1}
    assert len(prices(http, viewer)) == 2
    metrics = [line for line in capsys.readouterr().out.splitlines() if "PriceRowsRefused" in line]
    assert len(metrics) == 1
    assert f'"reason":"{refusal}"' in metrics[0].replace(": ", ":")


def test_a_batch_of_ten_thousand_rows_loses_none_of_those_that_may_come(
    http: Http, agent: Registration, viewer: str
) -> None:
    many = [a_row(10) for _ in range(9_998)]
    found = outcomes(report(agent, a_row(5), *many, a_row(15)))
    assert found[:2] == ["kept", "kept"]
    assert set(found[2:1_000]) == {"duplicate"}
    assert set(found[1_000:]) == {"beyond-batch"}
    assert len(found) == 10_000
    assert len(prices(http, viewer)) == 2


def test_a_longer_batch_is_refused_whole(agent: Registration, rows: Rows) -> None:
    before = rows()
    answer = report(agent, *([a_row()] * 10_001))
    assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", "rows")
    assert rows() == before


def test_a_submission_of_nothing_but_bad_rows_leaves_nothing(agent: Registration, rows: Rows) -> None:
    before = rows()
    assert outcomes(report(agent, a_row(usd_per_hour="-1"))) == ["not-positive"]
    assert rows() == before


def test_two_primaries_that_disagree_are_resolved_by_rule_and_told(
    http: Http, agent: Registration, viewer: str
) -> None:
    other = http.register(
        **http.identity("i-0ccccccccccccccc3"), registration_key="another-key-of-at-least-32-characters"
    )
    assert outcomes(report(agent, a_row(usd_per_hour="0.035"), submission_id="b")) == ["kept"]
    disagreeing = report(other, a_row(usd_per_hour="0.05"), submission_id="c")
    assert outcomes(disagreeing) == ["not-better"]
    assert disagreeing.body["rows"][0]["message"]
    assert outcomes(report(other, a_row(usd_per_hour="0.06"), submission_id="a")) == ["kept"]
    assert [point["usd_per_hour"] for point in prices(http, viewer)] == ["0.06"]


def test_only_the_agent_itself_reports(http: Http, agent: Registration, viewer: str) -> None:
    assert report(agent, a_row(), token=http.admin).problem == "Forbidden"
    assert report(agent, a_row(), token=http.client_token).problem == "Forbidden"
    assert http.call("POST", "/api/agents/agt-x/pricing", {}, token=agent.token).status in (404, 422)


@pytest.mark.parametrize("path", ["/api/pools", f"/api/pools/{POOL}/prices", f"/api/pools/{POOL}/quality"])
def test_only_operators_read(http: Http, agent: Registration, path: str) -> None:
    assert http.call("GET", path, token=agent.token).problem == "Forbidden"
    assert http.call("GET", path, token=http.client_token).problem == "Forbidden"


def test_a_viewer_does_not_fill_gaps(http: Http, viewer: str) -> None:
    assert http.call("POST", f"/api/pools/{POOL}/gaps/fill", {}, token=viewer).problem == "Forbidden"


@pytest.mark.parametrize("below", ["prices", "quality"])
def test_an_unknown_pool_is_404(http: Http, viewer: str, below: str) -> None:
    answer = http.call("GET", f"/api/pools/eu-west-9z.m5.large/{below}", token=viewer)
    assert (answer.status, answer.problem) == (404, "PoolUnknown")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-03-01T12:00:00"}, "to"),
        ({"from": "2026-03-02T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, "from"),
        ({"from": "2020-03-01T00:00:00Z"}, "from"),
        ({"resolution": "4"}, "resolution"),
        ({"resolution": "week"}, "resolution"),
    ],
)
def test_a_range_that_makes_no_sense_is_422(http: Http, viewer: str, query: dict[str, str], field: str) -> None:
    answer = http.call("GET", f"/api/pools/{POOL}/prices", token=viewer, query=query)
    assert (answer.status, answer.problem, answer.body["field"]) == (422, "InvalidRequest", field)


def test_a_coarse_resolution_keeps_peaks_and_troughs(http: Http, agent: Registration, viewer: str) -> None:
    values = ["0.03", "0.031", "0.09", "0.031", "0.01", "0.031", "0.03"]
    report(agent, *(a_row(5 * place, usd_per_hour=value) for place, value in enumerate(values)))
    points = prices(http, viewer, resolution="1440")
    assert {"0.09", "0.01"} <= {point["usd_per_hour"] for point in points}
    assert len(points) < len(values)


def test_inferred_points_say_so_and_a_report_that_comes_late_replaces_them(
    http: Http, agent: Registration, viewer: str
) -> None:
    report(agent, a_row(15, usd_per_hour="0.03"), a_row(5, usd_per_hour="0.05"))
    known = {row.bucket: row.usd_per_hour for row in wiring.prices().measured(POOL, _last_hour())}
    wiring.prices().put_inferred(fill(POOL, known, range(min(known), max(known)), at=datetime.now(UTC)))
    [_, between, _] = prices(http, viewer)
    assert (between["usd_per_hour"], between["source"], between["is_inferred"], between["is_causal"]) == (
        "0.04",
        "short-gap",
        True,
        False,
    )
    first, end = (bucket_start(bucket_of(moment)).isoformat() for moment in (ago(15), ago(0)))
    quality = http.call("GET", f"/api/pools/{POOL}/quality", token=viewer, query={"from": first, "to": end}).body
    assert Decimal(quality["inferred_percent"]) > 0
    assert quality["gaps"]["short"] == 1
    assert outcomes(report(agent, a_row(10, usd_per_hour="0.031"), submission_id="late")) == ["kept"]
    [_, between, _] = prices(http, viewer)
    assert (between["usd_per_hour"], between["source"], between["is_inferred"]) == ("0.031", "primary-agent", False)


def test_quality_tells_coverage_and_shares(http: Http, agent: Registration, viewer: str) -> None:
    report(agent, a_row(5), a_row(10))
    since = bucket_start(bucket_of(ago(10)))
    quality = http.call(
        "GET",
        f"/api/pools/{POOL}/quality",
        token=viewer,
        query={"from": since.isoformat(), "to": (since + timedelta(minutes=10)).isoformat()},
    ).body
    assert (quality["buckets"], quality["coverage_percent"], quality["measured_percent"]) == (2, "100.00", "100.00")
    assert quality["disagreement"] == {"compared": 0, "differing": 0, "largest_percent": "0.00"}


def test_filling_is_started_once_per_key_and_says_where_to_look(http: Http) -> None:
    body = {"from": ago(120).isoformat(), "to": ago(60).isoformat()}
    headers = {"idempotency-key": "one"}
    first, again, other = (
        http.call("POST", f"/api/pools/{POOL}/gaps/fill", body, token=http.admin, headers=sent)
        for sent in (headers, headers, {})
    )
    assert first.status == again.status == other.status == 202, first.body
    assert first.body == again.body
    assert first.body["look"].endswith(f":execution:fill-gaps:{first.body['execution']}")
    assert other.body["execution"] != first.body["execution"]


def _last_hour() -> range:
    now = bucket_of(datetime.now(UTC))
    return range(now - 12, now + 1)


def test_an_agents_pools_tell_what_they_cost_on_demand_and_save(http: Http, agent: Registration) -> None:
    shown = agent.call("GET", "/pools", token=http.admin)
    assert shown.status == 200, shown.body
    assert {pool["on_demand_usd_per_hour"] for pool in shown.body["pools"]} == {"0.096"}
    # moto's spot prices are its own; what is saved follows from both.
    for pool in shown.body["pools"]:
        saving = 100 - 100 * Decimal(pool["usd_per_hour"]) / Decimal("0.096")
        assert pool["saving_percent"] == round(float(saving), 2)


@pytest.mark.parametrize("silent", [False, True])
def test_a_price_list_that_does_not_answer_costs_no_collection(
    http: Http,
    agent: Registration,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    silent: bool,
) -> None:
    price_list = FakePriceList({"m5.large": "0.1"})
    price_list.silent = {"m5.large"} if silent else set()
    monkeypatch.setattr(wiring, "price_list", lambda: price_list)
    monkeypatch.setattr(wiring, "advisor", lambda: FakeAdvisor(None))
    done = collect_prices.handle({}, http.context)
    assert (done["pools"], done["advisor_failed"]) == (2, 1)
    assert (done["on_demand_asked"], done["on_demand_failed"]) == (int(not silent), int(silent))
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    counted = {
        name: one[name] for one in metrics for name in ("PriceCollections", "OnDemandPriceFailures") if name in one
    }
    assert counted == {"PriceCollections": [1.0], "OnDemandPriceFailures": [float(silent)]}
    shown = wiring.prices().known_pools([POOL])[POOL].on_demand_usd_per_hour
    assert shown == Decimal("0.096" if silent else "0.1")


def test_the_advisors_band_is_asked_daily_and_stands_in_for_a_pools_own_history(
    http: Http, agent: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    advisor = FakeAdvisor({"m5.large": AdvisorBand.FROM_5_TO_10_PERCENT})
    monkeypatch.setattr(wiring, "price_list", lambda: FakePriceList({}))
    monkeypatch.setattr(wiring, "advisor", lambda: advisor)
    told = [collect_prices.handle({}, http.context) for _ in range(2)]
    assert [(one["advisor_asked"], one["advisor_found"], one["advisor_failed"]) for one in told] == [
        (2, 2, 0),
        (0, 0, 0),
    ]
    assert advisor.asked == 1
    recommendation = agent.call("GET", "/switch-recommendation", token=http.admin).body
    assert (recommendation["risk_basis"], recommendation["model_version"]) == ("advisor-band", None)
    assert "advisor band 1" in recommendation["risk_note"]
    tomorrow = datetime.now(UTC) + timedelta(days=1, minutes=1)
    monkeypatch.setattr(wiring, "clock", lambda: tomorrow)
    advisor.known = {}
    assert collect_prices.handle({}, http.context)["advisor_asked"] == 2
    band = wiring.prices().known_pools([POOL])[POOL].band
    assert band is AdvisorBand.FROM_5_TO_10_PERCENT, "what was known stays"
