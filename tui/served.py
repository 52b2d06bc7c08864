"""The terminal UI in a browser, by textual-serve: one process a visitor, and only for whoever knows the address.

The address holds a token that is drawn anew each time. Pages of other sites are refused by their Origin, other names
for this machine by their Host, so that no web page can reach the UI through the browser of someone who uses it.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import secrets
import shlex
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from simclr_plus.errors import EnvironmentNotAbleError

if TYPE_CHECKING:
    from aiohttp import web

HOST = "127.0.0.1"
TOKEN_BYTES = 32
EVERY_ADDRESS = ("0.0.0.0", "::")
HEADERS = {
    "Referrer-Policy": "no-referrer",  # the address is the password
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'; style-src 'self' 'unsafe-inline'",  # no font from elsewhere
}


def serve_in_browser(words: Sequence[str], port: int, say: Callable[[str], None], *, host: str = HOST) -> None:
    """Serve `simclr-plus WORDS` until Ctrl-C; raises EnvironmentNotAbleError without textual-serve or the port."""
    try:
        from textual_serve.server import Server
    except ImportError:
        raise EnvironmentNotAbleError("--serve needs textual-serve: pip install 'simclr-plus[serve]'") from None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EnvironmentNotAbleError(f"--port {port} of {host} cannot be had: {error}; choose another") from None
    token = secrets.token_urlsafe(TOKEN_BYTES)
    command = shlex.join([sys.executable, "-m", "simclr_plus.cli", *words])
    name = socket.gethostname() if host in EVERY_ADDRESS else _in_address(host)
    say(f"http://{name}:{port}/{token}/   whoever has this address is let in; Ctrl-C ends it")
    if host != HOST:
        say("it is not encrypted: whoever can listen on the way can read the address")
    else:
        say(f"from another machine: ssh -L {port}:{HOST}:{port} THIS_MACHINE, then the same address there")
    _guarded(Server, token)(command, host=host, port=port, title="SimCLR+").serve()


def _guarded(server: type[Any], token: str) -> type[Any]:
    """textual-serve's server behind a token; the package is optional, so its class is known only here."""

    class Guarded(server):
        """Serves /TOKEN/, its files and its WebSocket, and nothing else."""

        def initialize_logging(self) -> None:
            """Failures alone: the paths of a log of visits hold the token."""
            logging.basicConfig(level=logging.WARNING, format="%(message)s")

        async def on_startup(self, app: web.Application) -> None:
            """The address was told already."""

        async def _make_app(self) -> web.Application:
            import aiohttp_jinja2
            import jinja2
            from aiohttp import web

            app = web.Application(middlewares=[_guard(token, self.host)])
            app.on_response_prepare.append(_add_headers)
            aiohttp_jinja2.setup(app, loader=jinja2.FileSystemLoader(self.templates_path))
            app.add_routes(  # any token here: the guard compares it, in constant time
                [
                    web.get("/{token}", self.handle_index),
                    web.get("/{token}/", self.handle_index),
                    web.get("/{token}/ws", self.handle_websocket),
                    web.get("/{token}/static/{name:.+}", self.handle_static),
                ]
            )
            return app

        async def handle_index(self, request: web.Request) -> web.StreamResponse:
            """The page; its addresses are those by which it was asked for, so that they hold through a tunnel."""
            import aiohttp_jinja2

            size = request.query.get("fontsize", "")
            scheme = "wss" if request.scheme == "https" else "ws"
            page = {
                "font_size": int(size) if size.isdecimal() and len(size) < 4 else 16,
                "app_websocket_url": f"{scheme}://{request.host}/{token}/ws",
                "config": {"static": {"url": f"/{token}/static/"}},
                "application": {"name": self.title},
            }
            return aiohttp_jinja2.render_template("app_index.html", request, page)

        async def handle_static(self, request: web.Request) -> web.StreamResponse:
            """A file of textual-serve's own."""
            from aiohttp import web

            folder = Path(self.statics_path).resolve()
            file = (folder / request.match_info["name"]).resolve()
            if not (file.is_relative_to(folder) and file.is_file()):
                raise web.HTTPNotFound
            return web.FileResponse(file)

    return Guarded


def _guard(token: str, host: str) -> Any:
    """What every request goes through first."""
    from aiohttp import web

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        refuse(request, token, host)
        return await handler(request)

    return guard


def refuse(request: web.Request, token: str, host: str) -> None:
    """Raise HTTPForbidden for a foreign Host or Origin, HTTPNotFound without the token.

    A browser always names the page that opens a WebSocket, so one without an Origin is refused too.
    """
    from aiohttp import web

    if not is_our_name(request.headers.get("Host", ""), host):
        raise web.HTTPForbidden(text="this address serves its own name only")
    first = request.path.split("/")[1]
    if not hmac.compare_digest(first.encode(errors="replace"), token.encode()):
        raise web.HTTPNotFound
    origin = request.headers.get("Origin")
    is_websocket = request.headers.get("Upgrade", "").lower() == "websocket" or request.path == f"/{token}/ws"
    if origin is None and not is_websocket:
        return
    if origin not in (f"http://{request.host}", f"https://{request.host}"):
        raise web.HTTPForbidden(text="only the page that this address serves may speak to it")


def is_our_name(name_and_port: str, host: str) -> bool:
    """Whether a Host header names what is served: the address itself, localhost, of all addresses any of this machine.

    >>> is_our_name("127.0.0.1:8000", "127.0.0.1"), is_our_name("evil.example:8000", "127.0.0.1")
    (True, False)
    """
    try:
        name = (urlsplit(f"//{name_and_port}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name in (host.lower(), "localhost", HOST, "::1"):
        return True
    return host in EVERY_ADDRESS and (_is_address(name) or name == socket.gethostname().lower())


def _is_address(name: str) -> bool:
    """A number: nobody's name server can make it mean another machine."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
