"""Statistics over scores: intervals, verdict."""
