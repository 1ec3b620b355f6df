"""Measures and reports. Every figure in the project's documents comes from here."""
