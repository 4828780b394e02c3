"""`python -m spot_agent restore`: an earlier state of this agent, next to the live one."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from spot_agent.control_plane import ControlPlane
from spot_agent.imds import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, Imds, MetadataUnreachable
from spot_agent.journal import JournalDamaged, read_memory
from spot_agent.restoring import NothingToRestore, NotNow, fetch_and_restore
from spot_agent.settings import SettingRefused, read_settings
from spot_agent.supervisor import CANNOT_BE_CONFIGURED
from spot_agent.sync.generations import Generation, GenerationStore
from spot_agent.sync.paths import WatchedPaths

_TRIES: Final = 3


def offer(commands: Any) -> None:
    """Add the command to a parser's subparsers."""
    parser = commands.add_parser("restore", help="restore a snapshot into a folder of its own", description=__doc__)
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the agent's settings")
    parser.add_argument("--at", metavar="TIME", type=_moment, help="the state up to here (ISO 8601, with a zone)")
    parser.add_argument("--into", metavar="FOLDER", type=Path, required=True, help="an empty folder, or none yet")


def run(arguments: argparse.Namespace) -> int:
    """Restore, and say what came out.

    Returns:
        The exit status: 0 where something was restored, 78 (EX_CONFIG) where starting again will not help.
    """
    into: Path = arguments.into
    if into.exists() and any(into.iterdir()):
        print(f"spot-agent: --into: found {into}, which is not empty; expected an empty folder", file=sys.stderr)
        return CANNOT_BE_CONFIGURED
    try:
        restored = _restore(arguments.config, arguments.at, into)
    except (SettingRefused, JournalDamaged, NothingToRestore) as error:
        print(f"spot-agent: {error}", file=sys.stderr)
        return CANNOT_BE_CONFIGURED
    except (NotNow, MetadataUnreachable) as error:
        print(f"spot-agent: {error}", file=sys.stderr)
        return 1
    taken_at = datetime.fromtimestamp(restored.taken_at).astimezone().isoformat()
    print(f"restored the state of {taken_at}: {restored.entry_count} entries, {restored.total_bytes} bytes, in {into}")
    return 0


def _restore(config: Path, at: datetime | None, into: Path) -> Generation:
    imds = Imds(os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT)
    settings = read_settings(file=config, environment=os.environ, user_data=imds.user_data(), folder=Path.cwd())
    memory = read_memory(settings.state_dir / imds.identity().instance_id)
    if memory is None or memory.agent_id is None or memory.agent_token is None:
        raise SettingRefused(f"STATE_DIR: {settings.state_dir} has no registered agent; start the agent on it first")
    control_plane = ControlPlane(settings.central_server_url)
    control_plane.authenticate(memory.agent_id, memory.agent_token)
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    work = into.with_name(f"{into.name}.restoring")
    watched = WatchedPaths.of([into.resolve() / str(number) for number in range(len(settings.watched_paths))])

    def store() -> GenerationStore:
        return GenerationStore.open(work / "store", watched)

    for tried in range(1, _TRIES + 1):
        try:
            restored = fetch_and_restore(control_plane, work / "objects", store, at=at)
        except NotNow:
            if tried == _TRIES:
                raise
        else:
            break
    opened = store()
    opened.verify()
    opened.release()
    shutil.rmtree(work, ignore_errors=True)
    control_plane.close()
    return restored


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no zone; expected such as 2026-03-01T12:00:00Z")
    return moment
