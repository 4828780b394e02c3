"""How a risk model comes to be, and what policies would have come to on recorded markets."""
