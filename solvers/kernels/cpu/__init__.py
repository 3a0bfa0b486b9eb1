"""The kernels on the CPU: numba, fused, parallel, vectors in registers."""
