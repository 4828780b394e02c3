"""The spot market: EC2 as the local AWS serves it."""
