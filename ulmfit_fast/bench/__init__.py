"""A minute of timings on this machine, ours against torch."""
