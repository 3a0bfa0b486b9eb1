"""Set-up on a CUDA device: the network evaluated by Triton kernels."""
