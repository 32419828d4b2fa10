"""Executors map shards to workers. Results come back in order; a bounded number is in flight."""
