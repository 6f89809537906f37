"""The operators of dss/ops in C++ for the CPU and in CUDA, with the same mathematics in the
headers."""
