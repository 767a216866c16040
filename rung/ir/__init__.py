"""The graph level: typed, immutable, hash-consed values with a text form and an interpreter."""
