"""Reports what spot instances cost where this workload may run, and keeps what could not be reported.

A report holds what changed since the last one, each at its own moment, and the prices in force now. It is kept on disk
until the control plane has taken it: the same report again is the same submission, so that nothing is lost and nothing
counts twice. Nothing here is worth the agent: what fails is logged, and tried again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from spot_agent import wire
from spot_agent.control_plane import Answer, Answered, OutcomeUnknown, Rejected
from spot_agent.imds import Credentials, Imds, MetadataUnreachable
from spot_agent.logs import Report, UnsentReports
from spot_agent.price_history import PriceHistory, PriceHistoryUnavailable, PublishedPrice

log = logging.getLogger(__name__)

LAST_HOUR: Final = timedelta(hours=1)
"""Of prices, what travels to the standby; and how far the first report looks back."""

_ROWS_AT_MOST: Final = 1_000
_RENEWED_BEFORE: Final = timedelta(minutes=5)
_UNWANTED_FOR: Final = timedelta(minutes=10)
_CATCHES_UP: Final = timedelta(days=1)
_NO_INTEREST: Final = "unknown-pool"


class InstancePrices:
    """The prices that this instance may ask for, by the role it was launched with."""

    def __init__(self, imds: Imds, history: PriceHistory, instance_types: Sequence[str]) -> None:
        """Keep what is given; nothing is asked yet.

        Args:
            imds: Has the role's credentials.
            history: EC2 in this region.
            instance_types: What the workload may run on.
        """
        self._imds = imds
        self._history = history
        self._instance_types = tuple(dict.fromkeys(instance_types))
        self._credentials: Credentials | None = None

    def __call__(self, since: datetime, now: datetime) -> Sequence[PublishedPrice] | None:
        """Prices published since a moment, with those in force then; None without a role.

        Raises:
            PriceHistoryUnavailable: EC2 gave no answer that can be used.
            MetadataUnreachable: Neither did the instance's metadata.
        """
        if self._credentials is None or self._credentials.expires_at - now < _RENEWED_BEFORE:
            self._credentials = self._imds.role_credentials()
        if self._credentials is None:
            return None
        return self._history.published(self._instance_types, since=since, credentials=self._credentials, now=now)


class PriceReports:
    """Reports prices by one thread."""

    def __init__(
        self,
        look: Callable[[datetime, datetime], Sequence[PublishedPrice] | None],
        *,
        instance_id: str,
        submit: Callable[[Report], Answer],
        unsent: UnsentReports,
        every_seconds: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Keep what is given; `begin` makes it work.

        Args:
            look: As `InstancePrices`.
            instance_id: Of this instance; makes the submissions' ids its own.
            submit: Hands a report in.
            unsent: Keeps what does not get through.
            every_seconds: How often.
            clock: The time, with its zone.
        """
        self._look = look
        self._instance_id = instance_id
        self._submit = submit
        self._unsent = unsent
        self._every_seconds = every_seconds
        self._clock = clock
        self._looked_until: datetime | None = None
        self._unwanted: dict[str, datetime] = {}
        self._last_hour: Mapping[str, tuple[tuple[str, str], ...]] = {}
        self._has_role: bool | None = None
        self._available = True
        self._changed = threading.Condition()
        self._closed = False

    def begin(self) -> None:
        """Report for the first time now."""
        threading.Thread(target=self._work, name="pricing", daemon=True).start()

    def stop(self) -> None:
        """Report no more; what is kept stays on disk. An instance that is taken back has better things to do."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def last_hour(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Moments and prices by pool id, as far as they were in force within the hour before the last report."""
        return self._last_hour

    def report(self) -> None:
        """Look once, and hand in what was seen; whatever fails is logged, and made up for the next time."""
        now = self._clock()
        try:
            report = self._compose(now)
        except (PriceHistoryUnavailable, MetadataUnreachable) as error:
            if self._available:
                log.warning("no prices; trying again", extra={"error": str(error)})
            self._available = False
            report = None
        else:
            self._available = True
        try:
            if report is not None:
                if len(self._unsent) == 0 and self._hand_in(report):
                    return
                self._unsent.add(report)
            self._unsent.submit(self._hand_in)
        except OSError as error:
            log.warning("prices can not be kept on disk", extra={"error": str(error)})

    def _compose(self, now: datetime) -> Report | None:
        last = self._looked_until
        since = now - LAST_HOUR if last is None else min(now, max(last, now - _CATCHES_UP))
        # The hour that travels along is asked for each time: it is one page, and nothing has to be kept for it.
        seen = self._look(min(since, now - LAST_HOUR), now)
        if (seen is not None) is not self._has_role:
            self._has_role = seen is not None
            if not self._has_role:
                log.info("no instance profile: prices are not reported")
        if seen is None:
            return None
        self._looked_until = now
        wanted = self._wanted_series(seen, now)
        self._last_hour = {pool_id: _since(series, now - LAST_HOUR) for pool_id, series in wanted.items()}
        rows = [
            {"pool_id": pool_id, "observed_at": moment.isoformat(), "usd_per_hour": price}
            for pool_id, series in wanted.items()
            for moment, price in (*((at, price) for at, price in series if since < at < now), (now, series[-1][1]))
        ]
        if not rows:
            return None
        submission_id = f"{self._instance_id}-{now.astimezone(UTC):%Y%m%dT%H%M%S%f}"
        body = {"submission_id": submission_id, "rows": rows[-_ROWS_AT_MOST:]}
        return Report(path="pricing", key=submission_id, body=body)

    def _wanted_series(self, seen: Sequence[PublishedPrice], now: datetime) -> dict[str, list[tuple[datetime, str]]]:
        """By pool id, in rising order; without pools that the control plane lately had no interest in."""
        self._unwanted = {pool_id: until for pool_id, until in self._unwanted.items() if until > now}
        series: dict[str, list[tuple[datetime, str]]] = {}
        for price in sorted(seen, key=lambda price: (price.pool_id, price.changed_at)):
            if price.pool_id not in self._unwanted and price.changed_at <= now:
                series.setdefault(price.pool_id, []).append((price.changed_at, price.usd_per_hour))
        return series

    def _hand_in(self, report: Report) -> bool:
        """Tell whether the report is done with."""
        match self._submit(report):
            case OutcomeUnknown(reason):
                log.info("prices are kept for later", extra={"reason": reason, "reports": len(self._unsent)})
                return False
            case Rejected(status, problem):
                # It would be refused again, and keep back what comes after it.
                log.warning("prices were refused", extra={"status": status, "problem": dict(problem)})
            case Answered(body):
                self._note_refusals(report, body)
        return True

    def _note_refusals(self, report: Report, answer: Mapping[str, Any]) -> None:
        until = self._clock() + _UNWANTED_FOR
        reasons = set()
        for refusal, row in wire.parse_refusals(answer, rows=len(report.body["rows"])):
            reasons.add(refusal)
            if refusal == _NO_INTEREST:
                self._unwanted[report.body["rows"][row]["pool_id"]] = until
        if reasons - {_NO_INTEREST}:
            log.warning("some prices were refused", extra={"reasons": sorted(reasons - {_NO_INTEREST})})

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
            self.report()
            with self._changed:
                if not self._closed:
                    self._changed.wait(self._every_seconds)


def _since(series: Sequence[tuple[datetime, str]], since: datetime) -> tuple[tuple[str, str], ...]:
    """What was in force at a moment, and what came after."""
    first = max((place for place, (at, _) in enumerate(series) if at <= since), default=0)
    return tuple((at.isoformat(), price) for at, price in series[first:])
