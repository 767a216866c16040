"""Data types, shapes, errors, settings and source locations: what every other layer stands on."""
