"""Spot Optimizer: stateful workloads on EC2 Spot whose users do not notice an interruption."""

__version__ = "0.1.0"
