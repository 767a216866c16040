"""Kernels that compute an op at once, made of NumPy's: nothing is compiled.

A rule is the `eager` column of an op record. It is called when a program is planned, knows types
and attributes, and gives a function of arrays. The caller has NumPy ignore floating-point errors
(`np.errstate(all="ignore")`) while it runs such functions.
"""
