"""Small complete programs, each written for rung as after PyTorch's habits, and again in PyTorch.

`python -m benchmarks.programs` runs them from an empty cache, as a new user does.
"""
