"""Writers of tiny, randomly initialised checkpoints in the real on-disk formats: one module a library."""
