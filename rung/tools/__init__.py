"""The command line: `rung train`, `rung sample`, `rung ops` and the rest."""
