"""Risk models: uploaded, made live, gone back from."""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from spotctl.converting import WHY_NOT_IN_THE_CLOUD, convert_apart
from spotctl.failures import Document, NotUnderstood, Unfinished
from spotctl.screen import Column, Shape
from spotctl.session import AsJson, AtMost, Session, Wait, WithinSeconds, Yes, begin
from spotctl.training import train_apart
from spotctl.waiting import looks
from spotctl.words import moment, plain, several, state, strong

app = typer.Typer(name="models", help="The models that tell how likely an interruption is. For admins.")

MANIFEST = "manifest.json"


def _measured(metrics: Any) -> str:
    return several(f"{name} {value:.3g}" for name, value in sorted((metrics or {}).items()))


SESSIONS = Shape(
    "SessionAnswer",
    (
        Column("session", "session_id", strong, whole=True),
        Column("status", "status", state, whole=True),
        Column("trained until", "trained_until", moment),
        Column("metrics", "metrics", _measured),
        Column("uploaded", "created_at", moment),
        Column("made live", "activated_at", moment),
        Column("why not", "reason"),
    ),
    nothing="No model yet: the advisor's band stands in for one.",
)
FINDINGS = (Column("step", "step"), Column("found", "finding"))
ACTIVATION = Shape(
    "ActivationAnswer",
    (
        Column("live", "live", strong),
        Column("fallback", "fallback"),
        Column("being activated", "activating"),
        Column("revision", "revision"),
        Column("look at", "look"),
    ),
)

SessionId = Annotated[
    str, typer.Argument(metavar="SESSION", help="As `spotctl models list` has it.", show_default=False)
]


@app.command("list")
def list_models(at_most: AtMost = None, as_json: AsJson = False) -> None:
    """List uploaded models: what is live, its fallback, what is pending, and what was rejected within 30 days."""
    with begin(as_json=as_json) as session:
        found = session.api.pages("/api/admin/ml-models/sessions", "sessions", at_most=at_most)
        session.screen.show_list(SESSIONS, found)


@app.command("train")
def train_model(
    out: Annotated[Path, typer.Option("--out", help="Where the model goes.", file_okay=False)] = Path("build/model"),
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", exists=True, file_okay=False, help="The folder of recorded markets; SPOT_DATA_DIR by default."
        ),
    ] = None,
) -> None:
    """Train a model on recorded interruptions, on this machine, and tell how good it is. Calls no API.

    It needs the repository and its `make setup`; an installed spotctl alone does not carry XGBoost.
    """
    with begin():
        train_apart(out, data)


@app.command("upload")
def upload_model(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", exists=True, file_okay=False, help=f"With {MANIFEST} and the files that it names."
        ),
    ],
    key: Annotated[
        str | None,
        typer.Option("--key", help="Idempotency key: the same key continues the same upload.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a model, as `make train` leaves it in build/model. It waits to be activated."""
    with begin(as_json=as_json) as session:
        manifest = _checked_manifest(folder)
        opened = session.api.post(
            "/api/admin/ml-models/sessions", {"manifest": manifest}, idempotency_key=key or uuid.uuid4().hex
        )
        uploads = opened["uploads"]
        with session.screen.progress("upload") as tell:
            for number, upload in enumerate(uploads):
                tell(100 * number / len(uploads), upload["name"])
                session.api.upload(upload["url"], upload["headers"], (folder / upload["name"]).read_bytes())
        session.screen.say(f"Next: `spotctl models activate {opened['session_id']} --wait` makes it live.")
        if as_json:
            session.screen.print_json({"session_id": opened["session_id"], "status": opened["status"]})
        else:
            print(opened["session_id"])


@app.command("activate")
def activate_model(
    session_id: SessionId,
    force_because: Annotated[
        str | None,
        typer.Option("--force-because", help="Make it live even if it does clearly worse; why.", show_default=False),
    ] = None,
    wait: Wait = False,
    within_seconds: WithinSeconds = 300,
    as_json: AsJson = False,
) -> None:
    """Make a model live, once it is validated and no worse than the one that is; it goes back by itself if it fails."""
    with begin(as_json=as_json) as session:
        body: Document = {"sessionId": session_id}
        if force_because:
            body |= {"force": True, "reason": force_because}
        begun = session.api.post("/api/admin/ml-models/activate", body, idempotency_key=uuid.uuid4().hex)
        if not wait:
            session.screen.show(ACTIVATION, begun)
            return
        ended = _await_end(session, session_id, within_seconds=within_seconds)
        session.screen.show_list(Shape("FindingAnswer", FINDINGS), ended["findings"])
        if ended["status"] != "live":
            raise Unfinished(
                f"Model {ended['status']}",
                f"{session_id} is not live: {plain(ended['reason'])}",
                advice="what was live still is; `spotctl models list` tells",
            )


@app.command("fallback")
def fall_back(yes: Yes = False, as_json: AsJson = False) -> None:
    """Go back to the model before, at once. Doing it again undoes it."""
    with begin(as_json=as_json) as session:
        session.confirm("Let the live model and its fallback change places?", yes=yes)
        answer = session.api.post("/api/admin/ml-models/fallback", idempotency_key=uuid.uuid4().hex)
        session.screen.show(ACTIVATION, answer)


@app.command("convert")
def convert_model(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Such as xgboost_model.pkl.", exists=True, dir_okay=False)
    ],
    *,
    trained_from: Annotated[datetime, typer.Option(help="When what it learned from begins (UTC).")],
    trained_until: Annotated[datetime, typer.Option(help="When that ends, and its test begins (UTC).")],
    tested_until: Annotated[datetime, typer.Option(help="When its test ends (UTC).")],
    scaler: Annotated[
        Path | None,
        typer.Argument(metavar="[SCALER]", help="Such as scaler.joblib.", exists=True, dir_okay=False),
    ] = None,
    hours: Annotated[int, typer.Option(min=1, max=168, help="Within how many hours it predicts interruptions.")] = 1,
    features: Annotated[
        str | None, typer.Option(help="Names of its columns, in order, with commas; needed where the files have none.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("model"),
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Turn a pickled model and its scaler into files that hold data alone, on this machine."""
    order = {
        "model": str(model.resolve()),
        "scaler": str(scaler.resolve()) if scaler else None,
        "out": str(out.resolve()),
        "hours": hours,
        "features": [name.strip() for name in features.split(",")] if features else None,
        "trained_from": _in_utc(trained_from),
        "trained_until": _in_utc(trained_until),
        "tested_until": _in_utc(tested_until),
    }
    with begin(as_json=as_json) as session:
        session.screen.say(WHY_NOT_IN_THE_CLOUD)
        named = " and ".join(str(path) for path in (model, scaler) if path)
        session.confirm(f"Load {named} on this machine?", yes=yes)
        found = convert_apart(order)
        if as_json:
            session.screen.print_json(found)
        session.screen.say(
            f"Wrote {', '.join(found['files'])} to {found['folder']}: {found['trees']} trees over "
            f"{', '.join(found['features'])}.\nNext: `spotctl models upload {out}`."
        )


def _in_utc(given: datetime) -> str:
    return given.replace(tzinfo=given.tzinfo or UTC).isoformat()


def _checked_manifest(folder: Path) -> Document:
    """Read the manifest, and hold the files to it before anything is sent.

    Raises:
        NotUnderstood: There is none, or a file is not the one that it names.
    """
    try:
        manifest: Document = json.loads((folder / MANIFEST).read_text())
        named = [(str(file["name"]), str(file["sha256"])) for file in manifest["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotUnderstood(f"{folder / MANIFEST} is no manifest: {error}; expected what `make train` writes") from None
    for name, sha256 in named:
        file = folder / name
        if file.parent != folder or not file.is_file():
            raise NotUnderstood(f"{folder} has no file '{name}', which the manifest names")
        if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            raise NotUnderstood(f"{file} is not the file that the manifest names: its SHA-256 is another")
    return manifest


def _await_end(session: Session, session_id: str, *, within_seconds: float) -> Document:
    with session.screen.progress(session_id) as tell:
        for _ in looks(within_seconds):
            found = session.api.pages("/api/admin/ml-models/sessions", "sessions")
            model = next(one for one in found if one["session_id"] == session_id)
            steps = [finding["step"] for finding in model["findings"]]
            tell(min(95.0, 12.0 * len(steps)), steps[-1] if steps else model["status"])
            if model["status"] not in ("validating", "live") or (model["status"] == "live" and _is_confirmed(session)):
                tell(100, model["status"])
                return model
    raise Unfinished("Still under way", f"{session_id} is '{model['status']}'; it goes on without you")


def _is_confirmed(session: Session) -> bool:
    """Whether what is live has been seen to serve; until then it may still be rolled back."""
    return session.api.get("/api/health")["model"].get("activating") is None
