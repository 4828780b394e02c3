"""Every deliberate failure of the ledger."""


class LedgerError(Exception):
    """Something was refused; the message says what was wrong, what was expected, and what to do."""


class SettingRefused(LedgerError):
    """A setting in the environment cannot be used."""


class WritesFrozen(LedgerError):
    """The ledger acknowledges no writes at the moment."""


class StillInFlight(LedgerError):
    """A write did not end in time, so nobody may rely on the ledger standing still."""


class EntryRefused(LedgerError):
    """An entry, or a question about entries, is malformed."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: expected {expected}")
        self.field = field
        self.expected = expected


class EntryDiffers(LedgerError):
    """The id is already in the ledger with another amount."""


class AlreadyServing(LedgerError):
    """Another process holds the live folder."""


class NotServing(LedgerError):
    """No ledger answers where one was expected."""


class LedgerMissing(LedgerError):
    """There is no ledger where one was expected, and an empty one must not take its place."""


class ImageDamaged(LedgerError):
    """The image is not a sound ledger."""


class LogDamaged(LedgerError):
    """A log holds a line that is not a record."""
