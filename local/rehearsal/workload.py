"""The ledger under an agent's protection: its instances, its clients, and what their logs prove."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from examples.ledger.audit import Audit, audit, entries_of_server, read_client_log, read_server_log
from examples.ledger.client import LedgerClient
from examples.ledger.clock import boot_ns
from examples.ledger.errors import NotServing
from local.market.views import InstanceView
from local.rehearsal.tenancy import ApiRefused, Tenancy

PORT = 8080
IMAGE_ID = "ami-0ledger"
INSTANCE_TYPES = ("m5.large", "m5a.large", "c5.large")
_POLL_SECONDS = 0.1


class NeverHappened(Exception):
    """What was waited for did not happen in time; says what, and how things stood."""


def wait_for[T](
    what: str, look: Callable[[], T | None], *, seconds: float, stands: Callable[[], object] = lambda: ""
) -> T:
    """Look again and again until there is something to see.

    Args:
        what: Named if it never happens.
        look: Returns what was waited for, or something false.
        seconds: How long to look.
        stands: How things stand; asked when time is up.

    Raises:
        NeverHappened: Time is up.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise NeverHappened(f"{what}: not within {seconds:g} s; {stands()}")
        time.sleep(_POLL_SECONDS)


class LedgerWorkload:
    """One agent whose workload is the ledger, from its first instance on.

    Attributes:
        agent_id: Known once the first instance has registered.
        address: The public address, which follows the primary.
        logs: Where every instance's ledger, and the client, write what they did.
    """

    def __init__(
        self,
        tenancy: Tenancy,
        logs: Path,
        *,
        name: str = "ledger",
        rate: float = 50.0,
        settings: tuple[str, ...] = (),
        instance_types: tuple[str, ...] = INSTANCE_TYPES,
        instance_profile: str | None = None,
    ) -> None:
        """Allocate the address and the launch template; `launch` starts the first instance.

        Args:
            tenancy: Where.
            logs: An empty folder, outside the instances: it outlives them.
            name: The agent's name.
            rate: Entries per second that the client writes.
            settings: Lines for the agent's configuration that replace those of the ledger's own file.
            instance_types: What it may run on; the first instance is of the first type.
            instance_profile: Name of the profile that its instances are launched with; None for none.
        """
        self.tenancy = tenancy
        self.logs = logs
        self.name = name
        logs.mkdir(parents=True, exist_ok=True)
        self._instance_types = instance_types
        self._market = tenancy.aws.market
        ec2 = tenancy.aws.client("ec2")
        allocated = ec2.allocate_address(Domain="vpc")
        self.address: str = allocated["PublicIp"]
        self._allocation_id: str = allocated["AllocationId"]
        image_id = f"{IMAGE_ID}{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        self._register_image(image_id, settings)
        template = ec2.create_launch_template(
            LaunchTemplateName=f"ledger-{name}",
            LaunchTemplateData={
                "ImageId": image_id,
                "InstanceType": instance_types[0],
                **({"IamInstanceProfile": {"Name": instance_profile}} if instance_profile else {}),
            },
        )["LaunchTemplate"]
        self._template_id: str = template["LaunchTemplateId"]
        tenancy.allow(self._template_id, self._allocation_id)
        self.agent_id = ""
        self.client = LedgerClient(
            f"http://{self.address}:{PORT}", str(logs / "client.jsonl"), rate=rate, name=name.replace(" ", "-")
        )

    def launch(self, *, seconds: float = 90.0) -> None:
        """Launch the first instance as an operator would, and wait until clients are served."""
        ec2 = self.tenancy.aws.client("ec2")
        user_data = "\n".join(
            (
                "# spot-agent",
                f"CENTRAL_SERVER_URL={self.tenancy.api_url}",
                f"CLIENT_TOKEN={self.tenancy.client_token}",
                f"AGENT_NAME={self.name}",
                f"LAUNCH_TEMPLATE_ID={self._template_id}",
                f"INSTANCE_TYPES={','.join(self._instance_types)}",
                f"SUBNET_IDS={','.join(self.tenancy.subnet_ids)}",
                "TRAFFIC_ADAPTER=eip",
                f"TRAFFIC_TARGET={self._allocation_id}",
                "",
            )
        )
        launched = ec2.run_instances(
            LaunchTemplate={"LaunchTemplateId": self._template_id},
            SubnetId=self.tenancy.subnet_ids[0],
            MinCount=1,
            MaxCount=1,
            InstanceMarketOptions={"MarketType": "spot"},
            UserData=user_data,
        )
        instance_id = launched["Instances"][0]["InstanceId"]
        agent = wait_for(
            f"{instance_id} registers as an agent",
            lambda: self._agent_of(instance_id),
            seconds=seconds,
            stands=lambda: self.log_of(instance_id),
        )
        self.agent_id = agent["agent_id"]
        wait_for(
            "clients are served through the address",
            self._is_served,
            seconds=seconds,
            stands=lambda: self.log_of(instance_id),
        )

    def view(self) -> dict[str, Any]:
        """The agent as the API shows it."""
        found: dict[str, Any] = self.tenancy.get(f"/api/agents/{self.agent_id}")
        return found

    def replicas(self) -> list[dict[str, Any]]:
        """The agent's replicas as the API shows them."""
        found: list[dict[str, Any]] = self.tenancy.get(f"/api/agents/{self.agent_id}/replicas")["replicas"]
        return found

    @property
    def primary_id(self) -> str:
        """The instance that is the primary now."""
        return str(self.view()["primary_instance_id"])

    def await_ready_standby(self, *, seconds: float = 90.0) -> dict[str, Any]:
        """Wait until a replica is ready to take over."""
        return wait_for(
            "a replica becomes ready",
            lambda: next((replica for replica in self.replicas() if replica["status"] == "ready"), None),
            seconds=seconds,
            stands=self.how_things_stand,
        )

    def await_promotion(self, *, above: int, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until the agent is past an epoch and no failover is at work on it."""
        return wait_for(
            f"the agent gets past epoch {above}",
            lambda: self._settled(above),
            seconds=seconds,
            stands=self.how_things_stand,
        )

    def await_acknowledgement(self, *, epoch: int, seconds: float = 30.0) -> None:
        """Wait until the client is acknowledged under an epoch."""
        wait_for(
            f"a write is acknowledged under epoch {epoch}",
            lambda: self.client.last_epoch is not None and self.client.last_epoch >= epoch,
            seconds=seconds,
            stands=self.how_things_stand,
        )

    def instances(self) -> list[InstanceView]:
        """The agent's instances that the market knows, oldest first."""
        ours = {self.primary_id} | {replica.get("instance_id") for replica in self.replicas()}
        return [instance for instance in self._market.instances() if instance.instance_id in ours]

    def verdict(self) -> Audit:
        """What all the logs prove; the ledger that serves now is the final one."""
        self.client.stop()
        servers = sorted(self.logs.glob("i-*.jsonl"))
        return audit(
            [read_client_log(self.logs / "client.jsonl")],
            [read_server_log(path) for path in servers],
            entries_of_server(f"http://{self.address}:{PORT}"),
        )

    def agent_token(self, instance_id: str) -> str:
        """The token that an instance's agent speaks with."""
        folder = Path(self._market.instance(instance_id).disk) / "agent-state" / instance_id
        _checksum, _, memory = (folder / "memory.json").read_text().partition(" ")
        return str(json.loads(memory)["agent_token"])

    def kill_agent(self, instance_id: str) -> None:
        """Kill the agent's process with SIGKILL; its supervisor and the workload live on."""
        for pid in self._market.instance(instance_id).pids:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"spot_agent" in command:
                os.kill(pid, signal.SIGKILL)

    def acknowledged_at(self, entry_id: str) -> int:
        """CLOCK_BOOTTIME in nanoseconds at which a server acknowledged an entry."""
        for path in self.logs.glob("i-*.jsonl"):
            for event in read_server_log(path):
                if event.event == "acknowledged" and event.entry_id == entry_id:
                    return event.boot_ns
        raise KeyError(entry_id)

    def committed_until(self, instance_id: str) -> int:
        """Up to when a promoted instance held its old primary's state, by its own word; CLOCK_BOOTTIME, nanoseconds."""
        path = self.tenancy.aws.folder / "logs" / f"{instance_id}.log"
        asked = [json.loads(line) for line in path.read_text().splitlines() if '"asking for promotion"' in line]
        covered_until = datetime.fromisoformat(asked[-1]["covered_until"])
        return int((covered_until.timestamp() - time.time()) * 1e9) + boot_ns()

    def remove(self) -> None:
        """Terminate the instances and let go of the address."""
        ec2 = self.tenancy.aws.client("ec2")
        instance_ids = [instance.instance_id for instance in self.instances()] if self.agent_id else []
        if instance_ids:
            ec2.terminate_instances(InstanceIds=instance_ids)
        ec2.delete_launch_template(LaunchTemplateId=self._template_id)

    def log_of(self, instance_id: str) -> str:
        """The end of what an instance printed."""
        path = self.tenancy.aws.folder / "logs" / f"{instance_id}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return f"the end of {instance_id}'s log:\n" + "\n".join(lines[-25:])

    def how_things_stand(self) -> str:
        """The agent, its replicas and its failovers, for a message."""
        with contextlib.suppress(ApiRefused, OSError):
            executions = [
                f"{one['name']} {one['status']}"
                for one in self.tenancy.executions()
                if one["name"].startswith(self.agent_id)
            ]
            logs = "\n".join(self.log_of(instance.instance_id) for instance in self.instances()[-2:])
            return f"agent {self.view()}\nreplicas {self.replicas()}\nexecutions {executions}\n{logs}"
        return "the API does not answer"

    def _settled(self, above: int) -> dict[str, Any] | None:
        view = self.view()
        return view if view["epoch"] > above and view["status"] != "failing-over" else None

    def _agent_of(self, instance_id: str) -> dict[str, Any] | None:
        agents = self.tenancy.get("/api/agents")["agents"]
        return next((agent for agent in agents if agent["primary_instance_id"] == instance_id), None)

    def _is_served(self) -> bool:
        try:
            entries_of_server(f"http://{self.address}:{PORT}", timeout_seconds=1)
        except NotServing:
            return False
        return True

    def _register_image(self, image_id: str, settings: tuple[str, ...]) -> None:
        """Bake the machine image: the agent, the ledger, and the configuration that ties them together."""
        repository = Path(__file__).resolve().parents[2]
        replaced = {line.partition("=")[0] for line in settings}
        ledger_settings = (repository / "examples" / "ledger" / "agent.env").read_text().splitlines()
        kept = [line for line in ledger_settings if line.partition("=")[0] not in replaced]
        roots = (repository, repository / "agent", repository / "layers" / "shared" / "python")
        self._market.register_image(
            image_id,
            ["python", "-m", "spot_agent.supervisor", "--config", "agent.env"],
            env={
                "PYTHON": sys.executable,
                "PYTHONPATH": ":".join(str(root) for root in roots),
                "PYTHONDONTWRITEBYTECODE": "1",
                "LEDGER_LOG": f"{self.logs}/",
                "STATE_DIR": "agent-state",
            },
            files={"agent.env": "\n".join((*kept, *settings, ""))},
        )
