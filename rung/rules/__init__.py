"""Sets of rewrite rules. Only rules live here; the driver is `rung.ir.rule`."""
