"""What policies would have come to on recorded markets: cost, outage, failovers and lost state, side by side."""
