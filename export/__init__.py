"""The workshop: trains, distils, exports, quantizes and checks every model that edgeface ships."""

import edgeface.runtime  # noqa: F401  # turns the runtimes' telemetry off before they are imported
