"""Commands of `simclr-plus`, each in a process of its own: a fork of one that has PyTorch imported.

    with Warm() as warm: warm.run(["evaluate", "knn", "x"], cwd=folder, timeout=300)

The server reads one JSON object a line from its input: argv, cwd, environment, files for stdout and stderr. It answers
with the fork's pid, then with its exit code. Nothing is computed before the fork, so that no thread is lost in it.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

BEFORE_THE_FORK = (
    "lightly.utils.dist matplotlib.pyplot numba PIL.Image pydantic rich.console scipy.stats textual.app torch "
    "torchvision.datasets torch.distributed torch._dynamo typer"
)


class Warm:
    """The server and its one client."""

    def __enter__(self) -> Warm:
        command = [sys.executable, __file__]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.server.communicate()

    def run(self, arguments: Sequence[str], *, cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
        """As subprocess.run of `python -m simclr_plus.cli ARGUMENTS`, killed where it takes longer than `timeout`."""
        assert self.server.stdin is not None and self.server.stdout is not None
        with tempfile.TemporaryDirectory(prefix="command") as folder:
            out, err = (Path(folder) / name for name in ("out", "err"))
            order = {"argv": list(arguments), "cwd": str(cwd), "environment": dict(os.environ)}
            order |= {"out": str(out), "err": str(err)}
            self.server.stdin.write(json.dumps(order) + "\n")
            self.server.stdin.flush()
            pid = int(self.server.stdout.readline())
            killer = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
            killer.start()
            code = int(self.server.stdout.readline())
            killer.cancel()
            told, talk = (path.read_text(encoding="utf-8", errors="surrogateescape") for path in (out, err))
        if code == -signal.SIGKILL:
            raise subprocess.TimeoutExpired(list(arguments), timeout, told, talk)
        return subprocess.CompletedProcess(list(arguments), code, told, talk)


def serve() -> None:
    """Fork once a line."""
    import importlib

    for module in BEFORE_THE_FORK.split():
        importlib.import_module(module)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _command(json.loads(line))
        answers.write(f"{pid}\n")
        answers.flush()
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


def _command(order: dict[str, Any]) -> NoReturn:
    """In the fork: the files as its output, and the command."""
    code = 1
    try:
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["environment"])
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "wb", closefd=False), "utf-8")
        sys.stderr = io.TextIOWrapper(
            io.FileIO(2, "wb", closefd=False), "utf-8", "backslashreplace", write_through=True
        )
        sys.argv = ["simclr-plus", *order["argv"]]
        from simclr_plus.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
