"""Pure rules: no AWS, no clock, no environment, no third-party import. The agent and the control plane share them."""
