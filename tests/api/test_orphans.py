"""What is nobody's, over HTTP: for operators of any role, and for nobody else."""

from __future__ import annotations

from datetime import timedelta

from spot_optimizer import wiring
from spot_optimizer.domain.orphans import Finding, Kind, Plan, Report, Sighting, write_ended, write_report
from tests.api.conftest import Http, Registration
from tests.builders import NOON


def test_an_operator_sees_what_nobody_claims_and_what_was_ended(http: Http) -> None:
    nothing = http.call("GET", "/api/orphans", token=http.admin)
    assert nothing.status == 200
    assert nothing.body == {"swept_at": None, "halted_because": None, "orphans": [], "ended": [], "ended_at": None}
    seen = Sighting(
        resource_id="i-1",
        kind=Kind.INSTANCE,
        agent_id="agt-1",
        finding=Finding.ORPHAN,
        reason="replica rep-1 is 'failed'",
        first_seen_at=NOON,
    )
    later = NOON + timedelta(minutes=20)
    wiring.records().commit(write_report(Report(), Plan((), (seen,), "too many"), now=later))
    wiring.records().commit(write_ended(1, [seen], now=later))
    found = http.call("GET", "/api/orphans", token=http.admin).body
    assert (found["swept_at"], found["halted_because"]) == ("2026-03-01T12:20:00Z", "too many")
    [orphan] = found["orphans"]
    assert (orphan["resource_id"], orphan["kind"], orphan["finding"]) == ("i-1", "instance", "orphan")
    assert (orphan["first_seen_at"], orphan["reason"]) == ("2026-03-01T12:00:00Z", "replica rep-1 is 'failed'")
    assert found["ended"] == [orphan]


def test_orphans_are_no_business_of_agents_and_clients(http: Http, agent: Registration) -> None:
    for token in (agent.token, http.client_token):
        assert http.call("GET", "/api/orphans", token=token).problem == "Forbidden"
