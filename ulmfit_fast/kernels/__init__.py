"""GPU kernels: one file an op, the only place that chooses one."""
