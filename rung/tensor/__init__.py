"""Lazy tensors, the array-API namespace, jit, derivatives and random numbers."""
