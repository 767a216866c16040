"""Derivatives in other forms: dual numbers (`dual`), and the derivative of a function as Python
text (`source`)."""

from rung.autodiff import dual as dual
