"""The workshop: trains, distils, exports, quantizes and checks every model that edgeface ships."""
