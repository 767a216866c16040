"""The CPU back end: types and text of LLVM IR, targets, vector math, lowering of kernels."""
