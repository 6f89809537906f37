"""Fast versions of the operators in dss/ops.py: C++ for the CPU, CUDA for the GPU, one mathematics in the headers."""
