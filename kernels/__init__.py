"""The operators of dss/ops in C++ for the CPU and in CUDA; the headers have what both share."""
