"""A tenant with workloads on the local AWS: what the demo plays and the end-to-end tests act on."""

from local.rehearsal.tenancy import ApiRefused, Tenancy
from local.rehearsal.workload import LedgerWorkload, NeverHappened, wait_for

__all__ = ["ApiRefused", "LedgerWorkload", "NeverHappened", "Tenancy", "wait_for"]
