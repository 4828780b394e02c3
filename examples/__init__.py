"""Workloads worth saving."""
