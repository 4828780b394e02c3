"""User data in memory."""

from __future__ import annotations

from datetime import datetime


class FakeJoining:
    """Implements `Joining`."""

    def user_data(self, *, agent_id: str, replica_id: str, launch_number: int, now: datetime) -> str:
        return (
            "# spot-agent\nCENTRAL_SERVER_URL=http://127.0.0.1:1\n"
            f"JOIN_TOKEN=spo_join_{replica_id}-{launch_number}_secret\nAGENT_ID={agent_id}\nREPLICA_ID={replica_id}\n"
        )
