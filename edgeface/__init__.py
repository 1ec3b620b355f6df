"""edgeface: face identification that runs on a CPU at the edge."""

__version__ = "0.1.0"
