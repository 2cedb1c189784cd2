"""How good images are, measured, and how fast a run is."""
