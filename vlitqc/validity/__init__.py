"""Does each metric measure what it says: controlled corruption of clean data, and what the metrics make of it."""
