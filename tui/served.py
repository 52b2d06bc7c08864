"""The terminal UI in a browser, by textual-serve: one process a visitor, on this machine's own address only."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Callable, Sequence

from simclr_plus.errors import EnvironmentNotAbleError

HOST = "127.0.0.1"  # it asks for no password: whoever reaches it can start and stop runs


def serve_in_browser(words: Sequence[str], port: int, say: Callable[[str], None]) -> None:
    """Serve `simclr-plus WORDS` until Ctrl-C; raises EnvironmentNotAbleError without textual-serve or the port."""
    try:
        from textual_serve.server import Server
    except ImportError:
        raise EnvironmentNotAbleError("--serve needs textual-serve: pip install 'simclr-plus[serve]'") from None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise EnvironmentNotAbleError(f"--port {port} of {HOST} cannot be had: {error}; choose another") from None
    say(f"http://{HOST}:{port}   (from another machine: ssh -L {port}:{HOST}:{port} THIS_MACHINE); Ctrl-C ends it")
    command = shlex.join([sys.executable, "-m", "simclr_plus.cli", *words])
    Server(command, host=HOST, port=port, title="SimCLR+").serve()
