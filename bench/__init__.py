"""Measures and reports. Every figure in the project's documents comes from here."""

import edgeface.runtime  # noqa: F401  # turns the runtimes' telemetry off before they are imported
