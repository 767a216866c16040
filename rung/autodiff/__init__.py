"""Derivatives in other forms: dual numbers, and the derivative of a function as Python text."""
