"""The service: cameras, sightings and people over HTTP, for a page and for other programs.

`config` says what is served, `service` runs it, `app` answers. Needs the extra `serve`.
"""
