"""The models of the benchmarks as users of other systems write them."""
