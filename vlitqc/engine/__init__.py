"""The engine: plan, shards, scorer, data-set pass, run directory. Knows no metric and no report by name."""
