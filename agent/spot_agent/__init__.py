"""The in-instance daemon: keeps one workload alive across the loss of its instance."""

__version__ = "0.1.0"
