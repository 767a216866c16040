"""Transformation of the source of Python functions."""
