"""`python -m local …`: AWS on one machine, from the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from local.launcher import LocalAws, LocalAwsFailed
from local.market.client import LeverRefused

app = typer.Typer(
    help="AWS on one machine: ministack, a spot market, and instances that are real processes.", no_args_is_help=True
)
console = Console(highlight=False)

_Run = Annotated[str | None, typer.Option("--run", help="Which local AWS, when several run.")]


@app.command()
def up(
    region: Annotated[str, typer.Option(help="Where the market is.")] = "us-east-1",
    prices: Annotated[Path | None, typer.Option(help="A recorded price trace, CSV.", exists=True)] = None,
) -> None:
    """Start a local AWS and keep it until Ctrl-C."""
    with console.status("starting"):
        aws = LocalAws(region=region, price_file=prices)
    with aws:
        console.print(
            f"[bold]{aws.endpoint_url}[/bold]  run {aws.folder.name}, account {aws.account_id}, region {aws.region}"
        )
        for name, value in aws.environment.items():
            console.print(f"export {name}={value}")
        console.print("[dim]Ctrl-C stops it and removes everything[/dim]")
        try:
            aws.wait()
        except KeyboardInterrupt:
            console.print("stopping")


@app.command()
def deploy(
    assembly: Annotated[Path, typer.Argument(help="The folder that cdk synth wrote.", exists=True, file_okay=False)],
    parameter: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, repeatable.")] = None,
    run: _Run = None,
) -> None:
    """Deploy a CDK cloud assembly."""
    given = dict(each.split("=", 1) for each in parameter or [])
    with console.status("deploying"):
        outputs = LocalAws.attach(run).deploy(assembly, parameters=given)
    console.print_json(json.dumps(outputs))


@app.command()
def instances(run: _Run = None) -> None:
    """List the instances of the market."""
    table = Table("instance", "state", "pool", "lifecycle", "private", "public", "processes", "reason")
    for each in LocalAws.attach(run).market.instances():
        colour = {"running": "green", "pending": "yellow", "terminated": "dim"}.get(each.state, "red")
        left = (
            f" {(each.interrupts_at - datetime.now(UTC)).total_seconds():.0f} s"
            if each.interrupts_at and each.pids
            else ""
        )
        table.add_row(
            each.instance_id,
            f"[{colour}]{each.state}{left}[/{colour}]",
            each.pool,
            each.lifecycle,
            each.private_address,
            each.public_address or "",
            str(len(each.pids)),
            each.reason,
        )
    console.print(table)


@app.command()
def interrupt(
    instance_id: Annotated[str, typer.Argument()],
    notice: Annotated[float, typer.Option(help="Seconds from notice to SIGKILL.")] = 120.0,
    action: Annotated[str, typer.Option(help="terminate or stop.")] = "terminate",
    publish: Annotated[bool, typer.Option(help="Tell EventBridge as well as the instance's metadata.")] = True,
    run: _Run = None,
) -> None:
    """Give notice to a spot instance, and take it back when the notice ends."""
    at = LocalAws.attach(run).market.interrupt(instance_id, action=action, notice_seconds=notice, publish=publish)
    console.print(f"{instance_id} has notice; SIGKILL at {at:%H:%M:%S} UTC")


@app.command()
def rebalance(instance_id: Annotated[str, typer.Argument()], run: _Run = None) -> None:
    """Recommend a rebalance to a spot instance."""
    LocalAws.attach(run).market.recommend_rebalance(instance_id)
    console.print(f"{instance_id} was told that it is at elevated risk")


@app.command()
def kill(instance_id: Annotated[str, typer.Argument()], run: _Run = None) -> None:
    """Let an instance die at once, without notice."""
    LocalAws.attach(run).market.kill(instance_id)
    console.print(f"{instance_id} is dead")


@app.command()
def capacity(
    pool: Annotated[str, typer.Argument(help="Such as us-east-1a/m5.large; * for all.")],
    available: Annotated[int, typer.Argument(help="Instances more that it takes; -1 for any number.")],
    error: Annotated[
        str, typer.Option(help="What a launch beyond that is refused with.")
    ] = "InsufficientInstanceCapacity",
    on_demand: Annotated[bool, typer.Option(help="Limit on-demand instead of spot.")] = False,
    run: _Run = None,
) -> None:
    """Limit what a pool takes."""
    LocalAws.attach(run).market.set_capacity(
        pool,
        available=True if available < 0 else available,
        error_code=error,
        lifecycle="on-demand" if on_demand else "spot",
    )


@app.command()
def down(run: _Run = None) -> None:
    """Stop a local AWS that another process started."""
    LocalAws.attach(run).stop()


def main() -> None:
    """Run the command line; what the local AWS refuses is a message, not a traceback."""
    try:
        app()
    except (LocalAwsFailed, LeverRefused) as error:
        console.print(f"[red]{error}[/red]")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
