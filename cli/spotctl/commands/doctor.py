"""Examining an agent, before it matters."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from spotctl.failures import Document, Unfinished
from spotctl.screen import Column, Shape
from spotctl.session import AgentId, AsJson, begin
from spotctl.words import state, strong

EXAMINATION = Shape(
    "ExaminationAnswer",
    (Column("agent", "agent_id", strong), Column("all in all", "outcome", state)),
)
FINDING = Shape(
    "FindingAnswer",
    (Column("", "outcome", state), Column("looked at", "check"), Column("found", "found")),
)


def examine(agent_id: AgentId, as_json: AsJson = False) -> None:
    """Look at all that an agent's next failover depends on; each finding says what to do.

    Quotas, subnets with free addresses, security groups that let the agents talk, launch template, permissions by a dry
    run of a launch in the first three pools, state size against the notice. Ends with 9 if something would fail.
    """
    with begin(as_json=as_json) as session:
        with session.screen.progress(agent_id) as tell:
            tell(0, "AWS is asked")
            examined = session.api.post("/api/agents/{agent_id}/doctor", agent_id=agent_id)
        findings = examined["findings"]
        session.screen.show(EXAMINATION, examined, below=[Text(), _listed(findings)])
        failed = [finding for finding in findings if finding["outcome"] == "failed"]
        if failed:
            checks = ", ".join(dict.fromkeys(str(finding["check"]) for finding in failed))
            raise Unfinished("A failover would fail", f"{len(failed)} of {len(findings)} findings say so: {checks}")


def _listed(findings: list[Document]) -> Table:
    """What was found, each with what to do below it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(*(column.of(finding) for column in FINDING.columns))
        if finding["advice"]:
            table.add_row("", "", Text(f"-> {finding['advice']}", style="cyan"))
    return table
