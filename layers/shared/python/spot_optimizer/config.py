"""The only reader of the environment: what the deployment tells a function."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from spot_optimizer.domain.writes import Table

CLIENTS = "CLIENTS_TABLE"
HEARTBEATS = "HEARTBEATS_TABLE"
RAW_PRICES = "PRICING_SUBMISSIONS_RAW_TABLE"
DECISIONS = "DECISIONS_TABLE"
TABLE_SETTINGS: Mapping[Table, str] = {
    Table.AGENTS: "AGENTS_TABLE",
    Table.REPLICAS: "REPLICAS_TABLE",
    Table.INSTANCES: "INSTANCES_TABLE",
    Table.INTERRUPTIONS: "INTERRUPTIONS_TABLE",
    Table.SWITCHES: "SWITCHES_TABLE",
    Table.FLEET_CONTROLS: "FLEET_CONTROLS_TABLE",
    Table.TOKENS: "TOKENS_TABLE",
    Table.SNAPSHOTS: "STATE_SNAPSHOTS_TABLE",
    Table.MODEL_SESSIONS: "MODEL_SESSIONS_TABLE",
    Table.MODEL_SLOTS: "MODEL_SLOTS_TABLE",
}
PRICE_TABLE_SETTINGS: Mapping[Table, str] = {
    Table.POOLS: "POOLS_TABLE",
    Table.CLEAN_PRICES: "PRICING_SNAPSHOTS_CLEAN_TABLE",
    Table.INFERRED_PRICES: "PRICING_SNAPSHOTS_INTERPOLATED_TABLE",
}
DEFAULT_HEARTBEAT_TIMEOUT = timedelta(seconds=300)


class SettingMissing(Exception):
    """The deployment did not give this function a setting that it needs."""


@dataclass(frozen=True, slots=True)
class Config:
    """What the deployment tells a function. It is given only the settings it uses; the others are never read."""

    environment: Mapping[str, str]

    @classmethod
    def from_environment(cls) -> Config:
        """Read the process's environment, once."""
        return cls(dict(os.environ))

    def _required(self, name: str) -> str:
        value = self.environment.get(name, "")
        if not value:
            raise SettingMissing(f"{name} is not set; the stack that deploys this function must set it")
        return value

    def table(self, table: Table) -> str:
        """Physical name of a table that conditional writes address."""
        return self._required({**TABLE_SETTINGS, **PRICE_TABLE_SETTINGS}[table])

    def tables_given(self) -> Mapping[Table, str]:
        """Physical names of those tables that this function was given."""
        return {
            table: self.environment[setting]
            for table, setting in TABLE_SETTINGS.items()
            if self.environment.get(setting)
        }

    @property
    def clients_table(self) -> str:
        """Physical name of the clients' table."""
        return self._required(CLIENTS)

    @property
    def heartbeats_table(self) -> str:
        """Physical name of the heartbeats' table."""
        return self._required(HEARTBEATS)

    @property
    def raw_prices_table(self) -> str:
        """Physical name of the table of price submissions."""
        return self._required(RAW_PRICES)

    @property
    def decisions_table(self) -> str:
        """Physical name of the table of decisions."""
        return self._required(DECISIONS)

    @property
    def snapshots_bucket(self) -> str:
        """Bucket for log tails and snapshots."""
        return self._required("SNAPSHOTS_BUCKET")

    @property
    def models_bucket(self) -> str:
        """Bucket for uploaded models, and for what they were asked."""
        return self._required("MODELS_BUCKET")

    @property
    def activate_model_state_machine_arn(self) -> str:
        """The workflow that makes a model live."""
        return self._required("ACTIVATE_MODEL_STATE_MACHINE_ARN")

    @property
    def fail_over_state_machine_arn(self) -> str:
        """The failover workflow."""
        return self._required("FAIL_OVER_STATE_MACHINE_ARN")

    @property
    def prepare_replica_state_machine_arn(self) -> str:
        """The workflow that prepares a replica."""
        return self._required("PREPARE_REPLICA_STATE_MACHINE_ARN")

    @property
    def fill_gaps_state_machine_arn(self) -> str:
        """The workflow that fills gaps in prices."""
        return self._required("FILL_GAPS_STATE_MACHINE_ARN")

    @property
    def gap_rules(self) -> str:
        """Which methods fill short, medium and long gaps in prices."""
        return self._required("GAP_RULES")

    @property
    def fail_over_function(self) -> str:
        """Name of the function that runs the failover's tasks; it also reconciles traffic."""
        return self._required("FAIL_OVER_FUNCTION")

    @property
    def decide_fleet_function(self) -> str:
        """Name of the function that decides for agents."""
        return self._required("DECIDE_FLEET_FUNCTION")

    @property
    def prepare_replica_function(self) -> str:
        """Name of the function that launches replicas; it also rehearses a launch."""
        return self._required("PREPARE_REPLICA_FUNCTION")

    @property
    def api_url_parameter(self) -> str:
        """SSM parameter that holds the public URL of the API."""
        return self._required("API_URL_PARAMETER")

    @property
    def identity_certificate_parameter(self) -> str:
        """SSM parameter that holds the PEM certificates which sign instance identity documents in this region."""
        return self._required("IDENTITY_CERTIFICATE_PARAMETER")

    @property
    def join_key_id(self) -> str:
        """KMS key from which join tokens are derived."""
        return self._required("JOIN_KEY_ID")

    @property
    def orphan_grace(self) -> timedelta:
        """How long something is seen to be nobody's before it is ended."""
        return timedelta(seconds=float(self._required("ORPHAN_GRACE_SECONDS")))

    @property
    def orphan_volume_grace(self) -> timedelta:
        """The same, of volumes."""
        return timedelta(seconds=float(self._required("ORPHAN_VOLUME_GRACE_SECONDS")))

    @property
    def region(self) -> str:
        """The region this function runs in; Lambda sets it."""
        return self.environment.get("AWS_REGION") or self._required("AWS_DEFAULT_REGION")

    @property
    def stage(self) -> str:
        """Which deployment this is, for people."""
        return self.environment.get("STAGE") or "dev"

    @property
    def heartbeat_timeout(self) -> timedelta:
        """Silence longer than this makes an agent `offline`."""
        seconds = self.environment.get("HEARTBEAT_TIMEOUT")
        return timedelta(seconds=float(seconds)) if seconds else DEFAULT_HEARTBEAT_TIMEOUT
