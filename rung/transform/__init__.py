"""Transforms of programs: forward and reverse derivatives of values and graphs."""
