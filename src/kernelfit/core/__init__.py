"""Value objects, integer geometry, statistics and estimates; no pixel is read here."""
