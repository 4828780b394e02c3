"""What models were asked, kept in S3 by day, and what the table of interruptions says became of it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from spot_optimizer.adapters.database import BoundTable, Database
from spot_optimizer.adapters.interruptions import POOL_INDEX, interruptions_table
from spot_optimizer.adapters.sessions import Clients, service_failures
from spot_optimizer.domain.agents import Interruption
from spot_optimizer.domain.model_comparison import Outcome
from spot_optimizer.domain.models import HORIZONS_HOURS, Row
from spot_optimizer.domain.signals import SignalType

PREFIX = "scored"
LOOKS_BACK = timedelta(days=14)
MOST_ROWS = 5_000
MOST_ROWS_PER_CALL = 200
KNOWN_AFTER = timedelta(hours=max(HORIZONS_HOURS))
_SERVICE = "S3"


class S3Outcomes:
    """Implements `Outcomes`, and keeps what will become outcomes.

    Args:
        clients: SDK clients.
        database: The connection.
        bucket: Tells the bucket; asked when it is first used.
        interruptions_table_name: Tells the physical name; asked when it is first used.
    """

    def __init__(
        self,
        clients: Clients,
        database: Database,
        *,
        bucket: Callable[[], str],
        interruptions_table_name: Callable[[], str],
    ) -> None:
        self._clients = clients
        self._database = database
        self._bucket = bucket
        self._interruptions_table_name = interruptions_table_name

    @cached_property
    def _interruptions(self) -> BoundTable[Interruption]:
        return interruptions_table(self._database, self._interruptions_table_name())

    def keep(
        self, pool_ids: Sequence[str], rows: Sequence[Row], *, features: Sequence[str], now: datetime, call_id: str
    ) -> None:
        """Keep an even sample of what was scored in one call."""
        step = -(-len(rows) // MOST_ROWS_PER_CALL)
        sample = {
            "scored_at": now.isoformat(),
            "features": features,
            "pool_ids": pool_ids[::step],
            "rows": rows[::step],
        }
        with service_failures(_SERVICE):
            self._clients.s3.put_object(
                Bucket=self._bucket(),
                Key=f"{PREFIX}/{now:%Y-%m-%d}/{now:%H%M%S}-{call_id}.json",
                Body=json.dumps(sample).encode(),
                ContentType="application/json",
                ServerSideEncryption="AES256",
            )

    def recent(self, *, now: datetime) -> tuple[Outcome, ...]:
        """Rows that were scored lately, and long enough ago for their outcome to be known; the newest first."""
        scored: list[tuple[str, datetime, tuple[str, ...], Row]] = []
        for key in self._keys(now):
            sample = self._read(key)
            scored_at = datetime.fromisoformat(sample["scored_at"])
            if scored_at <= now - KNOWN_AFTER:
                features = tuple(sample["features"])
                scored += [
                    (pool_id, scored_at, features, tuple(row))
                    for pool_id, row in zip(sample["pool_ids"], sample["rows"], strict=True)
                ]
            if len(scored) >= MOST_ROWS:
                break
        scored = scored[:MOST_ROWS]
        earliest = min((scored_at for _, scored_at, _, _ in scored), default=now)
        interruptions = {pool_id: self._interrupted(pool_id, earliest) for pool_id in {one[0] for one in scored}}
        return tuple(
            Outcome(pool_id, scored_at, features, row, _hours_until(interruptions[pool_id], scored_at))
            for pool_id, scored_at, features, row in scored
        )

    def _keys(self, now: datetime) -> list[str]:
        by_day: dict[str, list[str]] = defaultdict(list)
        for days in range(LOOKS_BACK.days):
            day = f"{now - timedelta(days=days):%Y-%m-%d}"
            with service_failures(_SERVICE):
                found = self._clients.s3.list_objects_v2(Bucket=self._bucket(), Prefix=f"{PREFIX}/{day}/")
            by_day[day] = sorted((each["Key"] for each in found.get("Contents", [])), reverse=True)
        return [key for day in sorted(by_day, reverse=True) for key in by_day[day]]

    def _read(self, key: str) -> dict[str, Any]:
        with service_failures(_SERVICE):
            answer = self._clients.s3.get_object(Bucket=self._bucket(), Key=key)
            with answer["Body"] as body:
                sample: dict[str, Any] = json.loads(body.read())
        return sample

    def _interrupted(self, pool_id: str, since: datetime) -> list[datetime]:
        path = self._interruptions.path("detected_at")
        found = self._interruptions.query_index(POOL_INDEX, pool_id, path >= since)
        return sorted(event.detected_at for event in found if event.signal_type == SignalType.TERMINATION_NOTICE)


def _hours_until(interruptions: Sequence[datetime], scored_at: datetime) -> float | None:
    after = next((at for at in interruptions if at > scored_at), None)
    if after is None or after - scored_at > KNOWN_AFTER:
        return None
    return (after - scored_at) / timedelta(hours=1)
