"""The routes, and what makes an application of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from edgeface.errors import GalleryError
from edgeface.serve import machine, people, pictures, together, views
from edgeface.serve.access import Access
from edgeface.serve.answers import Refused, on_error
from edgeface.serve.calls import Call, read_form, read_json
from edgeface.serve.dialects import DIALECTS
from edgeface.serve.guard import Guard
from edgeface.serve.service import Service

HERE = Path(__file__).parent
OPENAPI = HERE / "openapi.json"
PAGE = HERE / "page"

Handler = Callable[[Call], Any]
Body = Literal["json", "form", "fields"] | None
FIELDS = ("multipart/form-data", "application/x-www-form-urlencoded", "")  # of a body of "fields"

# Method, address, what answers, and what the body is. openapi.json describes each.
ROUTES: tuple[tuple[str, str, Handler, Body], ...] = (
    ("GET", "/v1/health", machine.health, None),
    ("GET", "/v1/system", machine.system, None),
    ("GET", "/v1/calibration", machine.calibration, None),
    ("POST", "/v1/calibration", machine.calibrated, "json"),
    ("GET", "/metrics", machine.metrics, None),
    ("GET", "/v1/cameras", views.cameras, None),
    ("POST", "/v1/cameras", views.added, "json"),
    ("GET", "/v1/cameras/{name}", views.camera, None),
    ("PATCH", "/v1/cameras/{name}", views.changed, "json"),
    ("DELETE", "/v1/cameras/{name}", views.removed, None),
    ("GET", "/v1/cameras/{name}/state", views.state, None),
    ("GET", "/v1/cameras/{name}/snapshot.jpg", views.snapshot, None),
    ("GET", "/v1/cameras/{name}/preview.mjpeg", views.preview, None),
    ("GET", "/v1/events", views.events, None),  # and, asked for text/event-stream, `stream`
    ("GET", "/v1/sightings", views.sightings, None),
    ("POST", "/v1/sightings/search", pictures.ever, "form"),
    ("GET", "/v1/sightings/{id}", views.sighting, None),
    ("GET", "/v1/sightings/{id}/image", views.image, None),
    ("GET", "/v1/visits", together.visits, None),
    ("GET", "/v1/people", people.listed, None),
    ("POST", "/v1/people", people.enrol, "form"),
    ("POST", "/v1/people/name", people.named, "json"),
    ("POST", "/v1/people/merge", people.merged, "json"),
    ("GET", "/v1/people/{id}", people.one, None),
    ("PATCH", "/v1/people/{id}", people.changed, "json"),
    ("DELETE", "/v1/people/{id}", people.forgotten, None),
    ("POST", "/v1/people/{id}/split", people.parted, "json"),
    ("POST", "/v1/people/{id}/not-this", people.not_this, "json"),
    ("GET", "/v1/people/{id}/samples", people.samples, None),
    ("GET", "/v1/people/{id}/samples/{sample}/image", people.sample_image, None),
    ("POST", "/v1/identify", pictures.identified, "form"),
    ("POST", "/v1/detect", pictures.detected, "form"),
    ("POST", "/v1/verify", pictures.verified, "form"),
    ("GET", "/v1/history", people.history, None),
    ("POST", "/v1/history/{id}/undo", people.undone, "json"),
)


def application(service: Service, access: Access) -> ASGIApp:
    """The service as an ASGI application."""

    def endpoint(handler: Handler, body: Body) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await worked(request)
            except Exception as error:
                if isinstance(error, GalleryError) and service.is_gone():
                    error = Refused(503, "store_unavailable", str(error))
                return await on_error(request, error)

        async def worked(request: Request) -> Response:
            texts: dict[str, Any] = {}
            files: dict[str, list[bytes]] = {}
            if body == "json":
                texts = await read_json(request)
            elif body == "form":
                texts, files = await read_form(request)
            elif body == "fields":
                texts, files = await read_form(request, FIELDS)
            if (proof := request.scope.get("edgeface.proof")) is not None:
                proof.check(texts)
            call = Call(service, request.path_params, request.query_params, texts, files)
            if handler is views.events and _wants_stream(request):
                return await _stream(service, request)
            found = await run_in_threadpool(handler, call)
            if isinstance(found, Response):
                return found
            content, status = found if isinstance(found, tuple) else (found, 200)
            return JSONResponse(content, status)

        return answer

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.feed.begin()
        yield
        service.feed.end()

    dialects = [DIALECTS[name] for name in service.settings.dialects]
    routes = [
        Route(_numbered(path), endpoint(handler, body), methods=[method])
        for method, path, handler, body in (*ROUTES, *(r for d in dialects for r in d.routes))
    ]
    routes.append(Route("/v1/openapi.json", _described))
    app = Starlette(
        routes=[*routes, Mount("/", StaticFiles(directory=PAGE, html=True))],
        exception_handlers={HTTPException: on_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return Guard(app, access, dialects)


def _numbered(path: str) -> str:
    """Ids in addresses are whole numbers."""
    return path.replace("{id}", "{id:int}").replace("{sample}", "{sample:int}")


def _wants_stream(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


async def _stream(service: Service, request: Request) -> Response:
    after = request.headers.get("last-event-id") or request.query_params.get("after")
    return StreamingResponse(
        service.feed.stream(after),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"},
    )


async def _described(request: Request) -> Response:
    return FileResponse(OPENAPI, media_type="application/json")
