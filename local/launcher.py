"""Start AWS on this machine, and leave nothing of it behind."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config

from local.deploy import deploy_assembly
from local.instances import RUN_VARIABLE
from local.leftovers import RunFolder, clean_up_after_others, runs_root
from local.market import advisor
from local.market.client import Market
from local.processes import ProcessIdentity

_CONNECTION = "connection.json"
_REPOSITORY = Path(__file__).resolve().parent.parent
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0


class LocalAwsFailed(Exception):
    """The local AWS did not start; the message carries the end of its log."""


class LocalAws:
    """An AWS account on loopback: ministack, the spot market and its instances, in a session of their own.

    Attributes:
        endpoint_url: Every service's endpoint.
        region: Where the market is.
        account_id: The account that the administrator's credentials belong to.
        identity_certificate: PEM of the certificate that signs instance identity documents.
        market: The market's levers.
        folder: The run's folder: `server.log`, `logs/<instance id>.log`, `disks/<instance id>/`.
    """

    def __init__(
        self,
        *,
        region: str = "us-east-1",
        account_id: str = "123456789012",
        price_file: Path | None = None,
        lambda_concurrency: int = 16,
    ) -> None:
        """Clean up after earlier runs that were killed, and start.

        Args:
            region: Where the market is.
            account_id: Twelve digits.
            price_file: A recorded trace (see `local.market.prices.read_price_file`); generated where it is silent.
            lambda_concurrency: How many functions may run at once.

        Raises:
            LocalAwsFailed: The server did not come up.
        """
        clean_up_after_others()
        run = RunFolder.create()
        me = ProcessIdentity.of(os.getpid())
        run.record(owner=me)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", 0))
            listening.listen(256)
            port = listening.getsockname()[1]
            connection = {
                "endpoint_url": f"http://127.0.0.1:{port}",
                "region": region,
                "account_id": account_id,
                "access_key": f"AKIA{secrets.token_hex(8).upper()}",
                "secret": secrets.token_hex(20),
                "token": secrets.token_hex(20),
            }
            self._server: subprocess.Popen[bytes] | None = _start_server(
                run.path, listening, connection, price_file, lambda_concurrency
            )
        self._run: RunFolder | None = run
        atexit.register(self.stop)
        try:
            connection |= _await_ready(self._server, run.path / "server.log")
        except BaseException:
            self.stop()
            raise
        _write_private(run.path / _CONNECTION, json.dumps(connection))
        self._take_up(run.path, connection)

    @classmethod
    def attach(cls, run_id: str | None = None) -> Self:
        """Talk to a local AWS that another process started; `stop` stops it.

        Args:
            run_id: Which one; None when there is only one.

        Raises:
            LocalAwsFailed: There is none, or there are several.
        """
        root = runs_root()
        found = [path.parent for path in sorted(root.glob(f"{run_id or '*'}/{_CONNECTION}"))]
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise LocalAwsFailed(f"expected one running local AWS, found {names}; start one with `python -m local up`")
        self = cls.__new__(cls)
        self._server, self._run = None, None
        self._take_up(found[0], json.loads((found[0] / _CONNECTION).read_text()))
        return self

    def _take_up(self, folder: Path, connection: Mapping[str, str]) -> None:
        self.folder = folder
        self.endpoint_url = connection["endpoint_url"]
        self.region = connection["region"]
        self.account_id = connection["account_id"]
        self.identity_certificate = connection["identity_certificate"]
        self._access_key, self._secret = connection["access_key"], connection["secret"]
        # boto3's types list every service by name; any name will do here.
        self._session: Any = boto3.session.Session(
            aws_access_key_id=self._access_key, aws_secret_access_key=self._secret, region_name=self.region
        )
        self._clients: dict[str, Any] = {}
        self._making_clients = threading.Lock()
        self.market = Market(self.endpoint_url, connection["token"], folder / "images")

    @property
    def environment(self) -> dict[str, str]:
        """What makes any AWS SDK or CLI talk to this AWS as its administrator."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self._access_key,
            "AWS_SECRET_ACCESS_KEY": self._secret,
        }

    def client(self, service: str) -> Any:
        """A boto3 client with administrator credentials; the same one each time, for any thread."""
        with self._making_clients:
            if service not in self._clients:
                self._clients[service] = self._session.client(
                    service,
                    endpoint_url=self.endpoint_url,
                    config=Config(retries={"max_attempts": 2}, s3={"addressing_style": "path"}, proxies={}),
                )
            return self._clients[service]

    def deploy(self, assembly: Path, *, parameters: Mapping[str, str] = {}) -> dict[str, str]:
        """Deploy a CDK cloud assembly, stack by stack in the order of their dependencies.

        Args:
            assembly: The folder that `cdk synth` wrote.
            parameters: CloudFormation parameters; each stack takes those that it declares.

        Returns:
            The outputs of all stacks, merged; API URLs are the reachable local ones.

        Raises:
            local.deploy.DeploymentFailed: A stack failed; the message says on which resource and why.
        """
        advisor.publish(self.client("s3"), region=self.region)
        return deploy_assembly(self, assembly, parameters)

    def wait(self) -> None:
        """Wait until somebody stops it; only for the process that started it."""
        if self._server is not None:
            self._server.wait()

    def stop(self) -> None:
        """Stop everything that was started and remove every folder that was made; again is harmless."""
        atexit.unregister(self.stop)
        if self._run is None:
            if self._server is None and hasattr(self, "market"):
                self.market.stop()
            return
        run, self._run = self._run, None
        if self._server is not None:
            if self._server.stdin is not None:
                with contextlib.suppress(OSError):
                    self._server.stdin.close()
            try:
                self._server.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            if self._server.stdout is not None:
                self._server.stdout.close()
        run.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _start_server(
    folder: Path, listening: socket.socket, connection: Mapping[str, str], price_file: Path | None, concurrency: int
) -> subprocess.Popen[bytes]:
    for name in ("tmp", "images", "disks", "logs"):
        (folder / name).mkdir()
    order = {
        "folder": str(folder),
        "socket": listening.fileno(),
        "endpoint_url": connection["endpoint_url"],
        "region": connection["region"],
        "account_id": connection["account_id"],
        "token": connection["token"],
        "price_file": str(price_file.resolve()) if price_file else None,
    }
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "local.server", json.dumps(order)],
            cwd=_REPOSITORY,
            env=_server_environment(folder, listening.getsockname()[1], connection, concurrency),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=(listening.fileno(),),
            start_new_session=True,
        )


def _server_environment(folder: Path, port: int, connection: Mapping[str, str], concurrency: int) -> dict[str, str]:
    """Everything the emulator reads, and nothing of the caller's own AWS settings."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder / "tmp"),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": str(_REPOSITORY),
        RUN_VARIABLE: folder.name,
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": connection["region"],
        "MINISTACK_ACCOUNT_ID": connection["account_id"],
        "AWS_ACCESS_KEY_ID": connection["access_key"],
        "AWS_SECRET_ACCESS_KEY": connection["secret"],
        "AWS_EC2_METADATA_DISABLED": "true",
        "AUTH": "true",
        "LAMBDA_ACCOUNT_CONCURRENCY": str(concurrency),
        "LAMBDA_WARM_TTL_SECONDS": "600",
        "LOG_LEVEL": "WARNING",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # No container daemon is ever asked, even where there is one.
        "DOCKER_HOST": f"unix://{folder}/no-docker.sock",
    }


def _await_ready(server: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    assert server.stdout is not None  # noqa: S101 - asked for above
    deadline = time.monotonic() + _START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(server.stdout, selectors.EVENT_READ)
        if selector.select(deadline - time.monotonic()):
            line = server.stdout.readline()
            if line.startswith(b"{"):
                ready: dict[str, str] = json.loads(line)
                return ready
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
    raise LocalAwsFailed(f"the local AWS did not start; the end of its log:\n{tail}")


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
