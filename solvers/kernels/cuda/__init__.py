"""The kernels on CUDA devices: Triton, fused, no scalar on the host."""
