"""Kernels: fusion, loop nests, schedules, strategies and the machine model."""
