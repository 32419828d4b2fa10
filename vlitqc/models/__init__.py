"""Model backends, one file each, and the store that finds, checks and builds them."""
