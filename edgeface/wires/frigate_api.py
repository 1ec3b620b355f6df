"""What is asked of Frigate's HTTP API."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlencode

from edgeface.wires.fitting import SLACK, Body
from edgeface.wires.reader import Undelivered
from edgeface.wires.webhook import REFUSED, NoRedirect

# Seconds back from a face in which Frigate began to follow its body, and how many of those are
# asked for.
LONGEST, MOST = 4 * 3600.0, 100


class NotTaken(Exception):  # noqa: N818 - an answer of Frigate's
    """Frigate has understood and will never take this; says its answer."""


class FrigateApi:
    """The two addresses that are needed. Each call raises `Undelivered` while Frigate does not
    answer as it should, and `NotTaken` for what it refuses."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url, self._timeout = url.rstrip("/"), timeout
        self._opener = urllib.request.build_opener(NoRedirect)

    def bodies(self, camera: str, time: float) -> list[Body]:
        """The people whom Frigate may have followed on one of its cameras at a time (Unix s)."""
        query = urlencode({
            "cameras": camera, "labels": "person", "after": time - LONGEST, "before": time + SLACK,
            "limit": MOST, "include_thumbnails": 0,
        })  # fmt: skip
        try:
            rows = self._ask("GET", f"/api/events?{query}")
        except NotTaken as error:
            raise Undelivered(f"answers {error} to a question about events") from error
        if not isinstance(rows, list):
            raise Undelivered("answers something other than a list of events: is this Frigate?")
        return [body for body in map(_body, rows) if body is not None]

    def label(self, body: str, name: str, score: float | None) -> None:
        """Set the sub label of a body; an empty name takes it away."""
        content: dict[str, Any] = {"subLabel": name}
        if score is not None:
            content["subLabelScore"] = score
        self._ask("POST", f"/api/events/{quote(body, safe='')}/sub_label", content)

    def _ask(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        headers = {"User-Agent": "edgeface", "Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in {404, *REFUSED}:
                raise NotTaken(str(error.code)) from error
            raise Undelivered(f"answers {error.code}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Undelivered(f"does not answer ({reason})") from error
        except ValueError as error:
            raise Undelivered("answers no JSON: is this Frigate?") from error


def _body(row: Any) -> Body | None:
    """A body of Frigate's row of it; None if it lacks what is needed, as events that other programs
    made do. `data.box` is x, y, width, height and `data.path_data` the middles of the lower edge
    with their times, all as shares of the frame (`to_relative_box` and `TrackedObject.update` in
    Frigate's source)."""
    try:
        data = row["data"]
        x, y, width, height = map(float, data["box"])
        path = tuple(
            (float(time), float(px), float(py)) for (px, py), time in data.get("path_data") or ()
        )
        end = row["end_time"]
        return Body(
            str(row["id"]), float(row["start_time"]), None if end is None else float(end),
            (x, y, x + width, y + height), tuple(sorted(set(path))),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        return None
