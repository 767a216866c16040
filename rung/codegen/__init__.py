"""Code generation: from scheduled kernels to the text of a machine (LLVM IR, Triton, NPU)."""
