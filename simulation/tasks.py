"""Lambda invocations: the control plane's own synchronous code, run so that every port call is a point of interruption.

Each invocation is a greenlet. A port call hands control back to the kernel before and after its effect, so that any
other process can act in between; it can fail on either side of the effect, and the invocation can be killed there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from spot_optimizer.errors import SpotOptimizerError

if TYPE_CHECKING:
    from simulation.kernel import Kernel


class Killed(BaseException):
    """The invocation's machine is gone. Not an Exception: no code of the product may catch it."""


class Invocation:
    """One run of a function of the control plane.

    Attributes:
        name: Of the task or of the route, for histories and for faults that strike there.
        calls: Port calls so far.
        is_brisk: Its port calls take no time, so that nobody acts in between.
        attempt: (epoch, attempt) for the tasks of a failover's execution.
        about: The handover that a request names.
        returned: It has done its work to the end.
        on_struck: Told when it is held up or killed.
    """

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        work: Callable[[], Any],
        ended: Callable[[Any, SpotOptimizerError | None, bool], None],
    ) -> None:
        """Keep what is given; `begin` makes it work.

        Args:
            kernel: Time.
            name: See the class.
            work: The code.
            ended: Told the result, or the deliberate failure, or (True) that it was killed.
        """
        self.name = name
        self.work = work
        self.calls = 0
        self.is_brisk = False
        self.attempt: tuple[int, int] | None = None
        self.about: str | None = None
        self.returned = False
        self.on_struck: Callable[[], None] = lambda: None
        self._kernel = kernel
        self._ended = ended
        self._greenlet: Any = None

    def begin(self) -> None:
        """Run until the first point of interruption; to be called by the kernel, never from within an invocation."""
        self._greenlet = greenlet(self._run)
        self._greenlet.invocation = self
        self._greenlet.switch()

    def wait(self, seconds: float) -> None:
        """Let others act for so long; to be called by the code that runs in here."""
        if self.is_brisk:
            return
        self._kernel.after(seconds, self._greenlet.switch)
        self._greenlet.parent.switch()

    def _run(self) -> None:
        try:
            result = self.work()
        except SpotOptimizerError as failure:
            self._ended(None, failure, False)
        except Killed:
            self._ended(None, None, True)
        else:
            self.returned = True
            self._ended(result, None, False)


def current() -> Invocation:
    """The invocation whose code is running."""
    invocation: Invocation = getcurrent().invocation  # type: ignore[attr-defined] # a greenlet takes any attribute
    return invocation
