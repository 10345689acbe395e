"""The web application: a page, and the interface for programs."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vswin_jax.data.clips.window_plan import check_windows
from vswin_jax.inference.explanations.explanation import class_index
from vswin_jax.inference.predictor import checked_topk
from vswin_jax.inference.serving.error_responses import HANDLERS
from vswin_jax.inference.serving.request_options import read_options, refuse_input
from vswin_jax.inference.serving.request_runner import RequestRunner
from vswin_jax.inference.serving.result_json import model_json, prediction_json, timeline_json
from vswin_jax.inference.serving.serve_settings import ServeSettings
from vswin_jax.inference.serving.served_model import ServedModel, TimelineOptions
from vswin_jax.inference.timelines.segments import SegmentOptions

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_SEGMENT_OPTIONS = ("threshold", "smooth", "shortest")


class WebApp:
    """The handlers of all requests.

    Attributes:
      app: the application of Starlette.
    """

    def __init__(self, model: ServedModel, runner: RequestRunner, settings: ServeSettings) -> None:
        self._model, self._runner, self._settings = model, runner, settings
        middleware = []
        if settings.allow_origins:
            origins, methods = list(settings.allow_origins), ["GET", "POST"]
            middleware = [Middleware(CORSMiddleware, origins, allow_methods=methods)]
        routes = [*_page_routes(), *self._routes()]
        self.app = Starlette(routes=routes, middleware=middleware, exception_handlers=HANDLERS)

    def _routes(self) -> Iterator[Route]:
        yield Route("/health", self._health)
        yield Route("/model", self._describe)
        yield Route("/predict", self._predict, methods=["POST"])
        yield Route("/explain", self._explain, methods=["POST"])
        yield Route("/timeline", self._timeline, methods=["POST"])

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "requests": self._runner.num_requests})

    async def _describe(self, _: Request) -> Response:
        return JSONResponse(model_json(self._model.predictor, self._settings))

    async def _predict(self, request: Request) -> Response:
        options = read_options(request, {"name": str, "topk": int})
        topk = self._topk(options)
        job = partial(self._model.predict, topk=topk)
        prediction = await self._runner.run(request, options.get("name", ""), job)
        return JSONResponse(prediction_json(prediction))

    async def _explain(self, request: Request) -> Response:
        options = read_options(request, {"name": str, "label": str})
        label = options.get("label")
        with refuse_input(400):
            class_index(label, self._model.model.label_names)
        job = partial(self._model.explain, label=label)
        picture = await self._runner.run(request, options.get("name", ""), job)
        return Response(picture, media_type="image/png")

    async def _timeline(self, request: Request) -> Response:
        numbers = dict.fromkeys(("stride", "window", *_SEGMENT_OPTIONS), float)
        options = read_options(request, {"name": str, "topk": int, **numbers})
        topk = self._topk(options)
        rules = {name: options[name] for name in _SEGMENT_OPTIONS if name in options}
        with refuse_input(400):
            windows = TimelineOptions(
                options.get("stride", 1.0), options.get("window"), SegmentOptions(**rules)
            )
            check_windows(self._model.model.spec, windows.stride, windows.window)
        job = partial(self._model.timeline, options=windows)
        timeline = await self._runner.run(request, options.get("name", ""), job)
        return JSONResponse(timeline_json(timeline, topk))

    def _topk(self, options: dict[str, int]) -> int:
        with refuse_input(400):
            return checked_topk(options.get("topk", self._model.predictor.topk))


def _page_routes() -> Iterator[Route]:
    for path, (name, media_type) in _FILES.items():
        yield Route(path, Response((_PAGE / name).read_bytes(), media_type=media_type))
