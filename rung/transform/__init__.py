"""Transforms of programs: forward and reverse derivatives of values and graphs."""

from rung.transform import control as _control  # noqa: F401  (gives the rules of loops)
