"""Figures, reports and text."""
