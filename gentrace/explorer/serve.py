"""A page for traces that are too large to travel, from a server on this machine and for nobody else.

It listens on the loopback interface only. Every address begins with a random token that only the page knows, and every
request must have come to the server by its own name, so that neither another page in the browser nor a name that was
made to point here (DNS rebinding) gets an answer.
"""

import html
import json
import secrets
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from string import Template
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gentrace.errors import GentraceError
from gentrace.explorer.answers import Answers
from gentrace.explorer.assemble import assemble, page_style
from gentrace.explorer.bundle import asset
from gentrace.explorer.library import LISTED, WORDS, Entry, Library, Stamp, stamp_of
from gentrace.explorer.payload import payload
from gentrace.explorer.plan import plan_asked
from gentrace.views.inlined import policy_hash
from gentrace.views.labels import running
from gentrace.views.timeline import model_name

OPENED = 4
"""Pages whose traces stay open."""
CUT = ' <span class="cut">cut short: what was recorded until then</span>'
"""Beside a trace whose recording did not run to the end."""
HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"frame-ancestors 'none'",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


class Guard:
    """Lets a request through only with the token, and under a name of this machine."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        """Guard an application that then sees its addresses without the token."""
        self._app = app
        self._token = token.encode()
        self._hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse with 403 and not a word more."""

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        if scope["type"] != "http":
            raise RuntimeError(f"only http is served, not {scope['type']}")
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        # Whatever is asked for: "*" has no slash at all.
        before, token, rest = [*scope["path"].split("/", 2), "", ""][:3]
        known = secrets.compare_digest(token.encode("utf-8", "replace"), self._token)
        whole = not before and scope["path"].count("/") > 1
        if not known or not whole or len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            await PlainTextResponse("forbidden", 403)(scope, receive, dressed)
            return
        path = "/" + rest
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, dressed)


class Desk:
    """What is answered, once a request may ask."""

    def __init__(self, library: Library, layers: list[int] | None = None) -> None:
        """Answer about a library's traces.

        Args:
            library: What may be opened.
            layers: Layer numbers; None for all recorded.
        """
        self.library = library
        self.layers = layers
        self._opened: OrderedDict[tuple[str, ...], _Open] = OrderedDict()
        self._turn = threading.Lock()

    def app(self) -> Starlette:
        """The application, without its guard."""
        routes = [Route("/", self.first), Route("/open", self.page), Route("/ask", self.ask)]
        return Starlette(routes=routes, exception_handlers={GentraceError: _told, OSError: _told, ValueError: _told})

    def first(self, request: Request) -> Response:
        """The folder's list, or the page of the files that were named."""
        if self.library.folder is None:
            return HTMLResponse(self._open(tuple(self.library.paths())).page)
        return HTMLResponse(list_page(str(self.library.folder), self.library.entries()))

    def page(self, request: Request) -> Response:
        """The page of some traces."""
        return HTMLResponse(self._open(tuple(request.query_params.getlist("name"))).page)

    def ask(self, request: Request) -> Response:
        """Bytes that a page asks for."""
        question = json.loads(request.query_params.get("question", ""))
        if not isinstance(question, dict):
            raise ValueError("a question is a JSON object")
        answers = self._open(tuple(request.query_params.getlist("name"))).answers
        return Response(answers.answer(question), media_type="application/octet-stream")

    def _open(self, names: tuple[str, ...]) -> "_Open":
        """Traces that stay open, as long as their files are the same."""
        with self._turn:
            found = self._opened.get(names)
            if found is None or any(stamp_of(path) != (path, *more) for path, *more in found.stamps):
                found = self._opened[names] = self._read(names)
                while len(self._opened) > OPENED:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(names)
            return found

    def _read(self, names: tuple[str, ...]) -> "_Open":
        stamps = self.library.stamps(names)
        traces = self.library.open(names)
        plans = plan_asked(traces, self.layers)
        title = ", ".join(dict.fromkeys(model_name(trace) for trace in traces.values()))
        link = {"kind": "server", "address": f"ask?{urlencode([('name', name) for name in names])}"}
        page = assemble(title, payload(traces, plans, title, link)[0], served=True)
        return _Open(stamps, Answers(traces, plans), page)


@dataclass(frozen=True, slots=True)
class _Open:
    stamps: tuple[Stamp, ...]
    answers: Answers
    page: str


async def _told(request: Request, error: Exception) -> Response:
    # A file's name in it may be no text.
    words = str(error).encode("utf-8", "backslashreplace")
    return PlainTextResponse(words, 404 if isinstance(error, FileNotFoundError) else 400)


def list_page(folder: str, entries: list[Entry]) -> str:
    """A folder's traces as a page, without any script."""
    style = page_style() + asset("list.css")
    policy = f"default-src 'none'; style-src {policy_hash(style)}; img-src data:; base-uri 'none'; form-action 'self'"
    count = len(entries)
    return Template(asset("list.template")).substitute(
        policy=policy,
        style=style,
        folder=html.escape(running(folder)),
        count=f"{'the first ' * (count == LISTED)}{count:,} trace{'s' * (count != 1)}",
        rows="\n".join(_row(entry) for entry in entries),
    )


def _row(entry: Entry) -> str:
    name, shown = html.escape(entry.name), html.escape(running(entry.name))
    if not entry.model:
        why = html.escape(running(entry.text))
        return f'<tr class="broken"><td></td><td><bdi>{shown}</bdi></td><td colspan="3">{why}</td></tr>'
    link = html.escape(f"open?{urlencode({'name': entry.name})}")
    words = running(entry.text)
    words = words if len(words) <= WORDS else f"{words[:WORDS]}…"
    return (
        f'<tr><td><input type="checkbox" name="name" value="{name}" aria-label="choose {shown}"></td>'
        f'<td><a href="{link}"><bdi>{shown}</bdi></a>{"" if entry.complete else CUT}</td>'
        f"<td><bdi>{html.escape(running(entry.model))}</bdi></td>"
        f"<td>{entry.tokens:,}</td><td><bdi>{html.escape(words)}</bdi></td></tr>"
    )


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals as they are: a server that only reads has nothing to finish before it ends."""
        yield


def serve(desk: Desk, said: Callable[[str], object]) -> None:
    """Serve until the process is ended.

    Args:
        desk: What is answered.
        said: Gets the address, once somebody is there to answer it.
    """
    token = secrets.token_urlsafe(32)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            Guard(desk.app(), token, port),
            lifespan="off",
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
        )
        said(f"http://127.0.0.1:{port}/{token}/")
        _Server(config).run(sockets=[listening])
