"""Two nodes train as one: two network namespaces with names of their own where the machine allows, else on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from launching import CLI, environment, processes_naming, wait_for
from slurm_cluster import free_ports

from simclr_plus.runs.folder import Run
from simclr_plus.runs.heartbeat import read_heartbeats
from simclr_plus.runs.states import read_status, state_of


@dataclass
class Nodes:
    """`command(i)` puts a program on node i; they meet at `meeting`."""

    meeting: str
    prefixes: tuple[list[str], list[str]]
    variables: dict[str, str] = field(default_factory=dict)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Two network namespaces with host names of their own; where the machine gives none, loopback for both."""
    names = [f"sp{os.getpid()}{x}" for x in "ab"]
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n10.77.0.1 nodea\n10.77.0.2 nodeb\n")
    made: list[str] = []
    try:
        try:
            make_namespaces(names, made)
        except (subprocess.CalledProcessError, FileNotFoundError):
            yield Nodes(f"127.0.0.1:{free_ports(1)[0]}", ([], []))
            return
        inside = 'hostname "$0"; mount --bind "$1" /etc/hosts; shift; exec "$@"'
        prefixes = [
            ["ip", "netns", "exec", name, "unshare", "--mount", "--uts", "bash", "-c", inside, f"node{x}", str(hosts)]
            for name, x in zip(names, "ab", strict=True)
        ]
        yield Nodes("nodea:29400", (prefixes[0], prefixes[1]))
    finally:
        for name in made:
            ip("netns", "del", name)


def make_namespaces(names: list[str], made: list[str]) -> None:
    """Two namespaces joined by a cable; `made` lists those to delete."""
    subprocess.run(["unshare", "--mount", "--uts", "true"], check=True, capture_output=True)
    for name in names:
        ip("netns", "add", name)
        made.append(name)
    ip("link", "add", f"{names[0]}0", "netns", names[0], "type", "veth", "peer", f"{names[1]}0", "netns", names[1])
    for i, name in enumerate(names):
        ip("-n", name, "link", "set", f"{name}0", "name", "eth0")
        ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")


def start(nodes: Nodes, which: int, folder: Path, *options: str, many: str = "2") -> subprocess.Popen[str]:
    command = [*CLI, "run", "demo", *options, "--name", "x", "--nodes", many, "--rdzv", nodes.meeting]
    command += ["--max-restarts", "3", "--runs", str(folder)]
    return subprocess.Popen(
        [*nodes.prefixes[which], *command],
        env=environment(folder),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, talk = process.communicate(timeout=240)
    return process.returncode, talk


def log_of(run: Run) -> str:
    return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in sorted(run.logs.glob("*.log")))


@pytest.mark.slow
def test_two_nodes_train_what_one_does(nodes: Nodes, tmp_path: Path, tiny: list[str]) -> None:
    both = [start(nodes, i, tmp_path, *tiny) for i in (0, 1)]
    results = [ended(process) for process in both]
    run = Run(tmp_path / "x")
    assert [code for code, _ in results] == [0, 0], (results, log_of(run))
    assert all("finished: " in talk for _, talk in results)
    assert state_of(run).name == "finished" and run.events()[0]["processes"] == 2
    assert run.metrics()[-1]["step"] == 9 and not processes_naming(run)
    one = subprocess.run(
        [*CLI, "run", "demo", *tiny, "--name", "one", "--nproc", "2", "--runs", tmp_path],
        env=environment(tmp_path),
        capture_output=True,
        check=False,
    )
    assert one.returncode == 0
    assert Run(tmp_path / "one").latest_checkpoint().read_bytes() == run.latest_checkpoint().read_bytes()


@pytest.mark.slow
def test_a_node_that_dies_and_comes_back_joins_again(nodes: Nodes, tmp_path: Path, tiny: list[str]) -> None:
    longer = [*tiny, "training.epochs=12", "checkpoints.every_epochs=1"]
    whole = subprocess.run(
        [*CLI, "run", "demo", *longer, "--name", "one", "--nproc", "2", "--runs", tmp_path],
        env=environment(tmp_path),
        capture_output=True,
        check=False,
    )
    assert whole.returncode == 0
    run = Run(tmp_path / "x")
    both = [start(nodes, i, tmp_path, *longer) for i in (0, 1)]
    wait_for(lambda: len(run.checkpoint_files()) >= 1, f"a checkpoint; {log_of(run)}")
    speaker = int(read_status(run)["pid"])
    lost = [pid for pid in supervisors(run) if pid != speaker]
    assert len(lost) == 1
    os.kill(lost[0], signal.SIGKILL)  # and with it its torchrun and its process
    failed = {p.communicate(timeout=200)[1]: p for p in both if wait_for_end(p, lost[0])}
    assert len(failed) == 1
    back = start(nodes, both.index(next(iter(failed.values()))), tmp_path, *longer)
    stayed = next(p for p in both if p not in failed.values())
    results = [ended(stayed), ended(back)]
    assert [code for code, _ in results] == [0, 0], (results, log_of(run))
    assert state_of(run).name == "finished" and not processes_naming(run)
    assert run.latest_checkpoint().read_bytes() == Run(tmp_path / "one").latest_checkpoint().read_bytes()
    assert [e["event"] for e in run.events()].count("resume") >= 1


def wait_for_end(process: subprocess.Popen[str], supervisor: int) -> bool:
    """Whether this command's supervisor was the one that was killed."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        return False
    return True


def supervisors(run: Run) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"simclr_plus.launch.supervisor" in words and str(run.path).encode() in words:
            found.append(int(place.name))
    return found


@pytest.mark.slow
def test_a_stop_ends_both_nodes_with_one_checkpoint(
    nodes: Nodes, tmp_path: Path, tiny: list[str], simclr_plus: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    both = [start(nodes, i, tmp_path, *tiny, "training.epochs=100") for i in (0, 1)]
    run = Run(tmp_path / "x")
    wait_for(run.metrics, "a step")
    assert len(read_heartbeats(run.logs)) == 2
    done = simclr_plus("stop", "x", "--runs", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [ended(process)[0] for process in both] == [0, 0]
    assert state_of(run).name == "stopped" and run.latest_checkpoint().exists() and not processes_naming(run)


def test_a_dry_run_prints_what_to_type_on_each_node(
    tmp_path: Path, tiny: list[str], simclr_plus: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ask = ["--name", "x", "--nodes", "2", "--rdzv", "node1:29500", "--nproc", "4", "--dry-run"]
    done = simclr_plus("run", "demo", *tiny, *ask, cwd=tmp_path)
    assert done.returncode == 0 and "8 x 8" not in done.stdout and "4 x 8" in done.stdout
    assert "--rdzv-endpoint node1:29500" in done.stdout.replace("\n", "") and "on each of the 2" in done.stderr
    for options, says in (
        (["--nodes", "2"], "needs --rdzv HOST:PORT"),
        (["--nodes", "two", "--rdzv", "a:1"], "--nodes two"),
        (["--nodes", "2", "--rdzv", "node1"], "write it as HOST:PORT"),
        (["--nodes", "2", "--rdzv", "node1:1"], "the same on each"),
    ):
        done = simclr_plus("run", "demo", *tiny, *options, cwd=tmp_path)
        assert done.returncode == 2 and says in done.stderr
