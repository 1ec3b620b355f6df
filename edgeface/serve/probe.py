"""Whether a service answers, asked from outside as by a container's health check."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request

from edgeface.errors import ArgumentError, OutputError

TIMEOUT = 4.0  # seconds
LONGEST = 1 << 16  # bytes of an answer


def probe(address: str) -> None:
    """Return if the service at an address, such as `http://127.0.0.1:8377`, is well.

    Raises:
        ArgumentError: that is no address.
        OutputError: nobody answers there, or something else than the service does.
    """
    if not address.startswith(("http://", "https://")):
        raise ArgumentError(f"{address!r} is no address: give http://HOST:PORT")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # of this machine
    try:
        with opener.open(f"{address.rstrip('/')}/v1/health", timeout=TIMEOUT) as answer:
            found = json.loads(answer.read(LONGEST))
    except urllib.error.HTTPError as error:
        error.close()
        raise OutputError(f"the service at {address} answers {error.code}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise OutputError(f"no service answers at {address}: {reason}") from error
    if not isinstance(found, dict) or found.get("status") != "ok":
        raise OutputError(f"what answers at {address} is no healthy service of edgeface")
