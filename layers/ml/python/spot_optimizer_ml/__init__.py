"""Decisions for a whole fleet on arrays, and the risk models behind them; carried by no failover function."""
