"""Cells of a study as tasks of a job array: the script, and the warning of a time limit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simclr_plus.launch.batch_scripts import Allocation, array_script
from simclr_plus.studies.running import cell as study_cell


def test_an_array_task_passes_the_warning_of_its_time_limit_on_to_a_cell_that_hears_it(tmp_path: Path) -> None:
    """A shell starts its background with SIGINT ignored: the cell's process must not keep that."""
    cell = tmp_path / "cell.py"
    cell.write_text(
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nprint('up', flush=True)\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: sys.exit(130)\n"
    )
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n')
    (tmp_path / "scontrol").chmod(0o755)
    script = array_script("x", tmp_path, [sys.executable, str(cell)], [0], Allocation())
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7"}
    task = subprocess.Popen(["bash", "-c", script], env=variables, stdout=subprocess.PIPE, text=True)
    assert task.stdout is not None and task.stdout.readline() == "up\n"
    task.send_signal(signal.SIGUSR2)
    assert task.wait(timeout=120) == 130 and (tmp_path / "requeued").read_text() == "requeue 7_0\n"
    task.stdout.close()


def test_a_cells_process_hears_an_interrupt_that_its_parent_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["study_cell", str(tmp_path), "0"])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as left:
            study_cell.main()
        assert left.value.code == 3 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_array_script_is_valid_bash_and_names_its_cells(tmp_path: Path) -> None:
    given = Allocation(gpus=2, cpus=8, time="60", partition="gpu", extra=("--qos=high",))
    command = ["python", "-m", "simclr_plus.studies.running.cell", str(tmp_path / "a 'b'")]
    script = array_script("study-x", tmp_path, command, [0, 3, 4], given, at_once=2)
    for line in ("--array=0,3,4%2", "--gpus-per-node=2", "--time=60", "--partition=gpu", "--qos=high", "--requeue"):
        assert f"#SBATCH {line}\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=True).returncode == 0
