"""Programs that measure rung beside its peers; `make bench` runs them all."""
