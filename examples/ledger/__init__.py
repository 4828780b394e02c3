"""A ledger over SQLite that survives losing its machine: the workload of the demo and of the end-to-end tests."""
