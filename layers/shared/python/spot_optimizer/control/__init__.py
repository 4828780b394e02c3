"""What the control plane does: read rows, let the domain decide, write, read back. Knows ports only, so a simulator
can run it.
"""
