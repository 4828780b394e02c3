"""What must outlive every deployment: the tables and the snapshots."""

from __future__ import annotations

from aws_cdk import CfnOutput, Stack
from constructs import Construct

from infra.constructs.models_bucket import ModelsBucket
from infra.constructs.snapshots_bucket import SnapshotsBucket
from infra.constructs.table import Index, Table
from infra.settings import Settings


class DataStack(Stack):
    """One table per aggregate.

    Attributes:
        clients: Tenants.
        tokens: Hashes of bearer tokens, and whom each speaks for.
        agents: Protected workloads; the row that every promotion fences on.
        heartbeats: Signs of life, on rows that no promotion touches.
        instances: Every instance that carries, or carried, an agent.
        replicas: Instances being prepared to take over.
        interruptions: Every signal, and what was done about it.
        switches: Every promotion.
        fleet_controls: What an operator says of all agents at once.
        state_snapshots: Complete snapshots of state, and how they follow each other.
        pools: Pools whose prices are kept.
        raw_prices: What was submitted, for 30 days.
        clean_prices: The best price of each pool and 5-minute bucket.
        inferred_prices: What was inferred where nothing was measured.
        decisions: What was decided for each agent, with every input, for 30 days.
        snapshots: The bucket of state and log tails.
        model_sessions: Uploaded risk models.
        model_slots: The one row that says which of them is live, and which is the fallback.
        models: The bucket of their files, and of samples of what they were asked.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(
            scope,
            construct_id,
            description="Spot Optimizer: tables and snapshots",
            termination_protection=settings.keeps_data,
        )
        self.clients = Table(
            self,
            "Clients",
            settings=settings,
            hash_key="client_id",
            indexes=(Index("listing-index", hash_key="listing", range_key="client_id"),),
        )
        self.tokens = Table(
            self,
            "Tokens",
            settings=settings,
            hash_key="token_id",
            indexes=(Index("agent-index", hash_key="agent_id"),),
            expires_by="expires_at",
        )
        self.agents = Table(
            self,
            "Agents",
            settings=settings,
            hash_key="agent_id",
            indexes=(
                Index("client-index", hash_key="client_id", range_key="agent_id"),
                Index("listing-index", hash_key="listing", range_key="agent_id"),
            ),
        )
        self.heartbeats = Table(
            self,
            "Heartbeats",
            settings=settings,
            hash_key="agent_id",
            range_key="instance_id",
            expires_by="forget_at",
        )
        self.instances = Table(
            self,
            "Instances",
            settings=settings,
            hash_key="instance_id",
            indexes=(
                Index("agent-index", hash_key="agent_id", range_key="joined_at"),
                Index("client-index", hash_key="client_id", range_key="joined_at"),
            ),
        )
        self.replicas = Table(self, "ReplicaInstances", settings=settings, hash_key="agent_id", range_key="replica_id")
        self.interruptions = Table(
            self,
            "SpotInterruptionEvents",
            settings=settings,
            hash_key="agent_id",
            range_key="event_id",
            indexes=(*_lists("detected_at"), Index("pool-index", hash_key="pool_id", range_key="detected_at")),
        )
        self.switches = Table(
            self,
            "InstanceSwitches",
            settings=settings,
            hash_key="agent_id",
            range_key="switch_id",
            indexes=_lists("switched_at"),
        )
        self.state_snapshots = Table(
            self,
            "StateSnapshots",
            settings=settings,
            hash_key="agent_id",
            range_key="snapshot_id",
            expires_by="expires_at",
        )
        self.fleet_controls = Table(self, "FleetControls", settings=settings, hash_key="control_id")
        self.pools = Table(
            self,
            "Pools",
            settings=settings,
            hash_key="pool_id",
            indexes=(Index("listing-index", hash_key="listing", range_key="pool_id"),),
        )
        self.raw_prices = Table(
            self,
            "PricingSubmissionsRaw",
            settings=settings,
            hash_key="submitter",
            range_key="kept_under",
            expires_by="forget_at",
        )
        self.clean_prices = Table(
            self, "PricingSnapshotsClean", settings=settings, hash_key="pool_id", range_key="bucket_start"
        )
        self.inferred_prices = Table(
            self, "PricingSnapshotsInterpolated", settings=settings, hash_key="pool_id", range_key="bucket_start"
        )
        self.decisions = Table(
            self,
            "Decisions",
            settings=settings,
            hash_key="agent_id",
            range_key="decided_at",
            expires_by="forget_at",
        )
        self.snapshots = SnapshotsBucket(self, "Snapshots", settings=settings)
        self.model_sessions = Table(
            self,
            "ModelUploadSessions",
            settings=settings,
            hash_key="session_id",
            indexes=(Index("listing-index", hash_key="listing", range_key="session_id"),),
            expires_by="forget_at",
        )
        self.model_slots = Table(self, "ModelSlots", settings=settings, hash_key="model")
        self.models = ModelsBucket(self, "Models", settings=settings)

        # The first operator's token, and demo data, are written by a person who has no function's environment.
        for setting, name in self.names.items():
            CfnOutput(self, setting.title().replace("_", ""), value=name)

    @property
    def names(self) -> dict[str, str]:
        """What `spot_optimizer.config` reads to find the tables; a name allows nothing."""
        return {
            "CLIENTS_TABLE": self.clients.name,
            "TOKENS_TABLE": self.tokens.name,
            "AGENTS_TABLE": self.agents.name,
            "HEARTBEATS_TABLE": self.heartbeats.name,
            "INSTANCES_TABLE": self.instances.name,
            "REPLICAS_TABLE": self.replicas.name,
            "INTERRUPTIONS_TABLE": self.interruptions.name,
            "SWITCHES_TABLE": self.switches.name,
            "FLEET_CONTROLS_TABLE": self.fleet_controls.name,
            "STATE_SNAPSHOTS_TABLE": self.state_snapshots.name,
            "POOLS_TABLE": self.pools.name,
            "PRICING_SUBMISSIONS_RAW_TABLE": self.raw_prices.name,
            "PRICING_SNAPSHOTS_CLEAN_TABLE": self.clean_prices.name,
            "PRICING_SNAPSHOTS_INTERPOLATED_TABLE": self.inferred_prices.name,
            "DECISIONS_TABLE": self.decisions.name,
            "SNAPSHOTS_BUCKET": self.snapshots.name,
            "MODEL_SESSIONS_TABLE": self.model_sessions.name,
            "MODEL_SLOTS_TABLE": self.model_slots.name,
            "MODELS_BUCKET": self.models.name,
        }


def _lists(at: str) -> tuple[Index, ...]:
    """The ways in which people look at what happened: of an agent, of a client, of all, each by time."""
    return (
        Index("agent-index", hash_key="agent_id", range_key=at),
        Index("client-index", hash_key="client_id", range_key=at),
        Index("listing-index", hash_key="listing", range_key=at),
    )
