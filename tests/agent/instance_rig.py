"""An instance under test: its metadata service, its disk, and a supervisor with a small workload."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spot_agent.fence import descendants
from tests.agent.fence_rig import end_tree, wait_until
from tests.agent.metadata_rig import DOCUMENT, MetadataRig

# Writes one number per line, each durable before the next, and only while it is not frozen. `writes` is the truth about
# what was acknowledged: it lies outside of what is carried, as a client's own log would.
WORKLOAD = """
import os, sys, time
epoch, live, writes = os.environ["SPOT_EPOCH"], sys.argv[1], sys.argv[2]
os.makedirs(live, exist_ok=True)
for left in ("frozen", "is_frozen"):  # a start takes a freeze back
    if os.path.exists(f"{live}/{left}"):
        os.unlink(f"{live}/{left}")
numbers = open(f"{live}/numbers", "a+")
numbers.seek(0)
last = int((numbers.read().split() or ["0"])[-1])
acknowledged = open(writes, "a")
open(f"{live}/healthy", "w").close()
while True:
    if os.path.exists(f"{live}/frozen"):
        open(f"{live}/is_frozen", "w").close()
        time.sleep(0.002)
        continue
    last += 1
    numbers.write(f"{last}\\n")
    numbers.flush()
    os.fsync(numbers.fileno())
    acknowledged.write(f"{last} {epoch} {time.clock_gettime(time.CLOCK_BOOTTIME)}\\n")
    acknowledged.flush()
    time.sleep(0.005)
"""


class InstanceRig:
    """`instance_id` is made of the number; addresses are 127.66.<number>.1 and .2."""

    def __init__(
        self, folder: Path, number: int, control_url: str, *, join: bool = False, hooks: str = "freeze"
    ) -> None:
        self.instance_id = f"i-{number:017x}"
        self.disk = folder / self.instance_id
        self.writes = folder / "writes"
        self.log = self.disk / "printed.log"
        self.disk.mkdir()
        (self.disk / "workload.py").write_text(WORKLOAD)
        self._configure(hooks)
        self.metadata = MetadataRig(f"127.66.{number}.1", f"127.66.{number}.2")
        document = {**json.loads(DOCUMENT), "instanceId": self.instance_id, "availabilityZone": f"us-east-1{number}"}
        self.metadata.pages["dynamic/instance-identity/document"] = json.dumps(document)
        self.metadata.pages["dynamic/instance-identity/signature"] = "c2lnbmVkIGJ5IG5vYm9keQ=="
        role = "JOIN_TOKEN=join\nAGENT_ID=agt-1\nREPLICA_ID=rep-1\n" if join else "CLIENT_TOKEN=client\n"
        self.metadata.pages["user-data"] = f"# spot-agent\nCENTRAL_SERVER_URL={control_url}\n{role}"
        self.supervisor: subprocess.Popen[bytes] | None = None

    def _configure(self, hooks: str) -> None:
        python = sys.executable
        lines = [
            f"HOOK_START=exec {python} -S -E workload.py live {self.writes}",
            "HOOK_HEALTH=test -e live/healthy",
            "HOOK_QUIESCE=mkdir -p image && cp live/numbers image/next && mv image/next image/numbers",
            "HOOK_RESTORE=mkdir -p live && cp image/numbers live/numbers",
            "WATCHED_PATHS=image",
            "STATE_DIR=state",
            "SYNC_INTERVAL=0.3",
            "SNAPSHOT_INTERVAL=0",
            "SYNC_PORT=0",
            "HEARTBEAT_INTERVAL=1",
            "INTERRUPTION_CHECK_INTERVAL=0.2",
            "LAUNCH_TEMPLATE_ID=lt-00000000",
            "INSTANCE_TYPES=m5.large",
            "SUBNET_IDS=subnet-a",
            "HOOK_TIMEOUT=10",
        ]
        if hooks == "freeze":
            lines += [
                "HOOK_FREEZE=touch live/frozen; until test -e live/is_frozen; do sleep 0.01; done",
                "HOOK_THAW=rm -f live/frozen live/is_frozen",
            ]
        (self.disk / "agent.env").write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        self.metadata.__enter__()
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()
        self.metadata.__exit__(kind, error, trace)
        if error is not None:
            print(f"--- {self.instance_id}\n{self.log.read_text()[-20000:]}", file=sys.stderr)

    def boot(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.url,
        }
        with self.log.open("ab") as printed:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", "spot_agent.supervisor", "--config", "agent.env"],
                cwd=self.disk,
                env=environment,
                stdout=printed,
                stderr=printed,
            )

    def die(self) -> None:
        """What AWS does in the end: everything stops at once."""
        if self.supervisor is not None:
            end_tree(self.supervisor)
            self.supervisor = None

    def terminate(self, timeout_seconds: float = 20) -> int:
        assert self.supervisor is not None
        wait_until(lambda: self.logged("agent begins"))
        self.supervisor.terminate()
        status = self.supervisor.wait(timeout_seconds)
        self.supervisor = None
        return status

    def logged(self, message: str) -> list[dict[str, Any]]:
        """The records with this message."""
        path = self.disk / "state" / "agent.log"
        if not path.exists():
            return []
        records = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        return [record for record in records if record["message"] == message]

    def agent_pid(self) -> int:
        return self._pid_of("spot_agent\0--config")

    def workload_pid(self) -> int:
        return self._pid_of("workload.py")

    def _pid_of(self, argument: str) -> int:
        assert self.supervisor is not None
        for pid in descendants(self.supervisor.pid):
            if argument in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        raise LookupError(f"no process with {argument!r}")


def acknowledged(folder: Path) -> list[tuple[int, int, float]]:
    """Number, epoch and moment of every acknowledged write."""
    path = folder / "writes"
    if not path.exists():
        return []
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(int(number), int(epoch), float(at)) for number, epoch, at in (line for line in lines if len(line) == 3)]


def await_writes(folder: Path, *, epoch: int, count: int = 5, seconds: float = 20.0) -> None:
    """Wait until so many writes were acknowledged under an epoch."""
    wait_until(lambda: sum(1 for _, of, _ in acknowledged(folder) if of == epoch) >= count, seconds)


def pause(seconds: float) -> None:
    time.sleep(seconds)
