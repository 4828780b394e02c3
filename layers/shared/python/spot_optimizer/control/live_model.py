"""What a warm process serves: the live model, looked for again and again, and never let go before the next is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from spot_optimizer.domain import model_checks
from spot_optimizer.domain.model_sessions import LOOK_EVERY, Slots
from spot_optimizer.domain.models import Golden
from spot_optimizer.errors import ModelRejected, ModelUnhealthy, NoModelLive, SpotOptimizerError, Transient
from spot_optimizer.ports import LoadedModel, ModelRecords


@dataclass(frozen=True, slots=True)
class Served:
    """A model that answers.

    Attributes:
        session_id: Its version.
        model: Loaded.
    """

    session_id: str
    model: LoadedModel


class LiveModel:
    """Keeps the live model loaded.

    Args:
        records: Where the slots are.
        read: Loads a session's model.
        clock: The time.
        warn: Told why what should be served is not.
    """

    def __init__(
        self,
        records: ModelRecords,
        *,
        read: Callable[[str], LoadedModel],
        clock: Callable[[], datetime],
        warn: Callable[[str], None],
    ) -> None:
        self._records = records
        self._read = read
        self._clock = clock
        self._warn = warn
        self._served: Served | None = None
        self._revision: int | None = None
        self._looked_at: datetime | None = None
        self._failure: SpotOptimizerError = NoModelLive("no model is live")

    def current(self) -> Served:
        """The model to serve now.

        The slots are looked at again when the last look is `LOOK_EVERY` old. A model that can not be loaded is passed
        over for the one that is served already, else for the fallback.

        Raises:
            NoModelLive: There is none, or none that can be loaded.
        """
        now = self._clock()
        if self._looked_at is None or now - self._looked_at >= LOOK_EVERY:
            self._look()
            self._looked_at = now
        if self._served is None:
            raise NoModelLive(f"{self._failure}; the advisor band stands in; upload and activate a model")
        return self._served

    @property
    def failure(self) -> SpotOptimizerError:
        """Why what should be served is not, if it is not."""
        return self._failure

    def _look(self) -> None:
        try:
            slots = self._records.slots()
        except SpotOptimizerError as error:
            self._warn(f"what is live can not be seen: {error}")
            return
        if slots.revision == self._revision:
            return
        if self._take(slots.live_session_id):
            # Only then: a model that failed to load is tried again at the next look.
            self._revision = slots.revision
        elif self._served is None and slots.fallback_session_id is not None:
            self._take(slots.fallback_session_id)

    def _take(self, session_id: str | None) -> bool:
        if session_id is None:
            self._served = None
            self._failure = NoModelLive("no model is live")
            return True
        if self._served is not None and self._served.session_id == session_id:
            return True
        try:
            self._served = Served(session_id, self._read(session_id))
        except SpotOptimizerError as error:
            self._failure = error
            self._warn(f"model {session_id} can not be loaded: {error}")
            return False
        return True


def check_health(live: LiveModel, slots: Slots, golden: Golden, *, session_id: str) -> str:
    """Whether this process serves a session's model, and that one answers as it was trained to.

    Returns:
        What was found.

    Raises:
        ModelUnhealthy: It does not.
        Transient: It could not be loaded for a reason that may pass.
    """
    if slots.live_session_id != session_id:
        raise ModelUnhealthy(f"{slots.live_session_id} is live, not {session_id}")
    try:
        served = live.current()
        if served.session_id != session_id:
            if isinstance(live.failure, Transient):
                raise live.failure
            raise ModelUnhealthy(f"{served.session_id} is served, though {session_id} is live: {live.failure}")
        return model_checks.check_golden(golden, served.model.score(golden.rows))
    except (ModelRejected, NoModelLive) as error:
        raise ModelUnhealthy(f"{session_id} is live, but does not serve: {error}") from error
