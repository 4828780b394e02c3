"""The operator's command line. It talks to the API, and to nothing else."""

__version__ = "0.1.0"
