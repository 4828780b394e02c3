"""`spotctl`: the commands, joined."""

from __future__ import annotations

from typing import Annotated

import typer

from spotctl import __version__
from spotctl.commands import (
    agents,
    clients,
    demo_data,
    doctor,
    emergencies,
    fleet,
    handovers,
    health,
    models,
    orphans,
    pausing,
    prices,
    replicas,
    reports,
    signing,
    switching,
    tokens,
)
from spotctl.failures import ExitCode

EXIT_CODES = "\n\n".join(["Exit codes:", *(f"{int(code)}  {code.meaning}" for code in ExitCode)])

app = typer.Typer(
    name="spotctl",
    help="Look after stateful workloads on EC2 Spot.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"spotctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    """Look after stateful workloads on EC2 Spot."""


app.command("sign-in", rich_help_panel="Begin")(signing.sign_in)
app.command("sign-out", rich_help_panel="Begin")(signing.sign_out)
app.command("health", rich_help_panel="Begin")(health.health)
app.add_typer(agents.app, rich_help_panel="Workloads")
app.add_typer(replicas.app, rich_help_panel="Workloads")
app.add_typer(handovers.app, rich_help_panel="Workloads")
app.add_typer(emergencies.app, rich_help_panel="Workloads")
app.command("switch", rich_help_panel="Workloads")(switching.switch)
app.command("doctor", rich_help_panel="Workloads")(doctor.examine)
app.command("pause", rich_help_panel="Workloads")(pausing.pause)
app.command("resume", rich_help_panel="Workloads")(pausing.resume)
app.command("paused", rich_help_panel="Workloads")(pausing.paused)
app.command("switches", rich_help_panel="What happened")(fleet.list_switches)
app.command("interruptions", rich_help_panel="What happened")(fleet.list_interruptions)
app.command("orphans", rich_help_panel="What happened")(orphans.list_orphans)
app.command("savings", rich_help_panel="What happened")(reports.list_savings)
app.command("metrics", rich_help_panel="What happened")(reports.show_metrics)
app.command("pools", rich_help_panel="Prices")(prices.list_pools)
app.command("prices", rich_help_panel="Prices")(prices.show_prices)
app.command("quality", rich_help_panel="Prices")(prices.show_quality)
app.add_typer(prices.gaps, rich_help_panel="Prices")
app.command("recommend", rich_help_panel="Decisions")(switching.recommend)
app.add_typer(models.app, rich_help_panel="Decisions")
app.add_typer(clients.app, rich_help_panel="Tenants")
app.add_typer(tokens.app, rich_help_panel="Tenants")
app.add_typer(demo_data.app, rich_help_panel="Trying out")


def main() -> None:
    """The command `spotctl`."""
    app(prog_name="spotctl")
