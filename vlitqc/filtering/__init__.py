"""The filter engine: rules over a run's scores, decisions with reasons, byte-exact output."""
