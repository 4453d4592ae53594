"""From pixels to sums: passes over an observation, weighted ones, and what they cost."""
