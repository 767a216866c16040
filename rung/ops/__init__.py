"""The op records, one family a file, and the composites over them; `table.OPS` lists them all."""
