"""A SLURM of two nodes on this machine, from Debian's slurm-wlm and munge, on loopback; it ends what it started."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in NEEDED if shutil.which(name, path=PATH) is None]


class Cluster:
    """`with` it in a folder with a short path (sockets); its `environment` leads commands to it."""

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder, self.nodes = folder, [f"n{i}" for i in range(nodes)]
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        try:
            self._start_munge()
            self._start_slurm()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if len(self._daemons) > 1:
            self.command("scancel", "--user", getpass.getuser())
            end = time.monotonic() + 20
            while self.command("squeue", "--noheader").strip() and time.monotonic() < end:
                time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def command(self, *arguments: str) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(arguments, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout

    def _start(self, name: str, *arguments: str) -> None:
        log = (self.folder / f"{name}.out").open("ab")
        program = str(shutil.which(arguments[0], path=PATH))
        self._daemons.append(subprocess.Popen([program, *arguments[1:]], stdout=log, stderr=log, env=self.environment))
        log.close()

    def _start_munge(self) -> None:
        place = self.folder / "munge"
        place.mkdir()
        place.chmod(0o711)
        key = place / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._start("munged", "munged", "--foreground", *(f"--{k}={place / v}" for k, v in files.items()))
        self._wait(lambda: (place / "socket").exists(), "munged")

    def _start_slurm(self) -> None:
        ports = free_ports(1 + len(self.nodes))
        user, host, here = getpass.getuser(), socket.gethostname().split(".")[0], self.folder
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={ports[0]}",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            "AuthType=auth/munge",
            "CryptoType=crypto/munge",
            f"AuthInfo=socket={here}/munge/socket,cred_expire=5",
            "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny",
            "SlurmdParameters=config_overrides",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU",
            "MpiDefault=none",
            "ReturnToService=2",
            "KillWait=5",
            "MinJobAge=300",
            "SchedulerParameters=sched_interval=1",
            f"StateSaveLocation={here}/state",
            f"SlurmdSpoolDir={here}/spool.%n",
            f"SlurmctldPidFile={here}/slurmctld.pid",
            f"SlurmdPidFile={here}/slurmd.%n.pid",
            f"SlurmctldLogFile={here}/slurmctld.log",
            f"SlurmdLogFile={here}/slurmd.%n.log",
        ]
        (here / "state").mkdir()
        for node, port in zip(self.nodes, ports[1:], strict=True):
            (here / f"spool.{node}").mkdir()
            lines.append(f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 State=UNKNOWN")
        lines.append(f"PartitionName=main Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE State=UP")
        (here / "slurm.conf").write_text("\n".join(lines) + "\n")
        self._start("slurmctld", "slurmctld", "-D", "-f", str(here / "slurm.conf"), "-c")
        for node in self.nodes:
            self._start(f"slurmd.{node}", "slurmd", "-D", "-f", str(here / "slurm.conf"), "-N", node)
        self._wait(lambda: self.command("sinfo", "-h", "-o", "%T").split() == ["idle"], "idle nodes")

    def _wait(self, found: object, what: str) -> None:
        assert callable(found)
        end = time.monotonic() + 60
        while not found():
            dead = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                logs = "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))
                raise RuntimeError(f"no {what}; ended: {dead}\n{logs}")
            time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports
