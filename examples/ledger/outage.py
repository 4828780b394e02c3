"""How long a client was kept waiting."""

# An acknowledgement that took longer than this was waited for, even if no attempt failed on the way to it.
WAITED_NS = 100_000_000


class OutageMeter:
    """Measures the longest outage that one client, which writes without pause, saw.

    An outage is the time between two consecutive acknowledgements when, in between, an attempt failed or the second
    one was waited for longer than 0.1 s. Time between acknowledgements that passed without trouble is the client's own
    rate, and no outage. An outage that has not ended counts up to the last failure. What came before the first
    acknowledgement does not count, except that a client that was never served has been without service for as long as
    it tried.
    """

    def __init__(self) -> None:
        self.longest_ns = 0
        self.longest_began_ns: int | None = None
        self.longest_ended_ns: int | None = None
        self._last_acknowledged_ns: int | None = None
        self._first_failed_ns: int | None = None
        self._has_failed_since = False

    def note_failure(self, at_ns: int) -> None:
        """An attempt ended without an acknowledgement."""
        self._has_failed_since = True
        if self._first_failed_ns is None:
            self._first_failed_ns = at_ns
        began_ns = self._first_failed_ns if self._last_acknowledged_ns is None else self._last_acknowledged_ns
        self._note_gap(began_ns, at_ns)

    def note_acknowledgement(self, at_ns: int, *, waited_ns: int) -> None:
        """An attempt that took `waited_ns` ended with an acknowledgement."""
        if self._last_acknowledged_ns is None:
            self.longest_ns, self.longest_began_ns, self.longest_ended_ns = 0, None, None
        elif self._has_failed_since or waited_ns > WAITED_NS:
            self._note_gap(self._last_acknowledged_ns, at_ns)
        self._last_acknowledged_ns = at_ns
        self._has_failed_since = False

    def _note_gap(self, began_ns: int, ended_ns: int) -> None:
        if ended_ns - began_ns > self.longest_ns:
            self.longest_ns = ended_ns - began_ns
            self.longest_began_ns, self.longest_ended_ns = began_ns, ended_ns
