"""rung: a deep-learning system that you can climb, from Python to machine code."""
