"""The loop's promises: resumed equals unbroken byte for byte, bad numbers stop it. See also checks/test_proof.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from simclr_plus.augmentations.law import OPERATIONS
from simclr_plus.cli.app import app
from simclr_plus.datasets import TEST, TRAIN, open_images, open_training_images
from simclr_plus.encoders import ResNet
from simclr_plus.errors import CheckpointError, RecipeError, SimclrPlusError
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.states import read_status, state_of
from simclr_plus.training.trainer import train
from simclr_plus.weights.checkpoints import load_checkpoint
from simclr_plus.weights.encoder_files import load_encoder, save_encoder
from simclr_plus.weights.tensor_files import read_header, write_tensors

Command = Callable[..., subprocess.CompletedProcess[str]]
EACH_STEP = ["checkpoints.every_epochs=0.125", "checkpoints.keep_last=100"]  # 32 of 256 images


def trained(folder: Path, overrides: list[str], name: str = "run") -> Run:
    run = create_run(load_recipe("demo", overrides), folder, name)
    train(run, quiet=True)
    return run


def last_bytes(run: Run) -> bytes:
    return run.checkpoint_files()[-1].read_bytes()


def test_a_killed_and_resumed_run_ends_with_the_bytes_of_an_unbroken_one(
    tmp_path: Path, tiny: list[str], simclr_plus: Command
) -> None:
    overrides = [*tiny, "training.epochs=3", "checkpoints.every_epochs=0.5", "checkpoints.keep_last=2"]
    unbroken = trained(tmp_path, overrides, "unbroken")
    command = [
        sys.executable,
        "-m",
        "simclr_plus.cli",
        "run",
        "demo",
        *overrides,
        "--name",
        "killed",
        "--runs",
        tmp_path,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed = Run(tmp_path / "killed")
    while len(killed.metrics()) < 7:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(read_status(killed)["pid"], signal.SIGKILL)
    assert process.wait() == 1 and state_of(killed).name == "lost"
    assert 0 < len(killed.metrics()) < len(unbroken.metrics())
    done = simclr_plus("resume", "killed", "--runs", tmp_path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert last_bytes(killed) == last_bytes(unbroken)
    assert (killed.path / "encoder.safetensors").read_bytes() == (unbroken.path / "encoder.safetensors").read_bytes()
    assert [e["event"] for e in killed.events() if e["event"] in ("start", "resume")] == ["start", "resume"]
    volatile = {"time", "images_per_second", "data_wait"}
    a, b = ([{k: v for k, v in x.items() if k not in volatile} for x in run.metrics()] for run in (unbroken, killed))
    assert a == b


def test_a_stop_file_saves_a_checkpoint_and_the_resumed_run_ends_the_same(tmp_path: Path, tiny: list[str]) -> None:
    unbroken = trained(tmp_path, tiny, "unbroken")
    stopped = create_run(load_recipe("demo", tiny), tmp_path, "stopped")
    original = Run.log_metrics

    def stop_at_three(run: Run, values: dict[str, object]) -> None:
        original(run, values)
        if values["step"] == 3:
            run.stop_file.parent.mkdir(exist_ok=True)
            run.stop_file.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log_metrics", stop_at_three)
        assert train(stopped, quiet=True) == "stopped"
    assert [p.stem for p in stopped.checkpoint_files()] == ["step_00000003"]
    assert train(stopped, quiet=True) == "finished"
    assert last_bytes(stopped) == last_bytes(unbroken)


def test_ctrl_c_saves_and_exits_with_130(tmp_path: Path, tiny: list[str]) -> None:
    command = [sys.executable, "-m", "simclr_plus.cli", "run", "demo", *tiny, "training.epochs=50", "--name", "x"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    run = Run(tmp_path / "runs" / "x")
    while len(run.metrics()) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=200)
    assert process.returncode == 130 and "simclr-plus resume" in talk
    assert run.latest_checkpoint().exists() and run.events()[-1]["reason"] == "stopped"


@pytest.mark.parametrize("setting", ["training.activation_checkpointing=true", "training.channels_last=false"])
def test_ways_to_compute_do_not_change_what_is_learned(tmp_path: Path, tiny: list[str], setting: str) -> None:
    plain, other = trained(tmp_path, tiny, "plain"), trained(tmp_path, [*tiny, setting], "other")
    losses = [[line["loss"] for line in run.metrics()] for run in (plain, other)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
    assert losses[0][:2] == pytest.approx(losses[1][:2], abs=1e-5)


def test_bfloat16_gradient_clipping_and_adam_train(tmp_path: Path, tiny: list[str]) -> None:
    extra = ["training.precision=bfloat16", "optimizer.gradient_clip=0.5", "training.epochs=3"]
    losses = [line["loss"] for line in trained(tmp_path, [*tiny, *extra]).metrics()]
    plain = [line["loss"] for line in trained(tmp_path, [*tiny, "training.epochs=3"], "plain").metrics()]
    assert losses[0] == pytest.approx(plain[0], abs=0.05) and losses != plain
    assert sum(losses[-4:]) / 4 < sum(losses[:4]) / 4 - 0.1


@pytest.mark.parametrize("name", ["simclr", "dim"])
def test_clipping_leaves_the_probe_out_so_that_labels_do_not_reach_the_encoder(
    tmp_path: Path, tiny: list[str], name: str
) -> None:
    settings = [*tiny, f"method.name={name}", "optimizer.gradient_clip=0.01", "optimizer.name=sgd", "training.epochs=1"]
    runs = [trained(tmp_path, [*settings, f"training.probe={probe}"], f"probe-{probe}") for probe in ("true", "false")]
    states = [load_encoder(run.path / "encoder.safetensors").state_dict() for run in runs]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_loss_that_is_not_finite_stops_with_step_rate_and_last_good_checkpoint(
    tmp_path: Path, tiny: list[str]
) -> None:
    overrides = [*tiny, *EACH_STEP, "optimizer.name=sgd", "optimizer.learning_rate=1e30", "training.warmup_epochs=0.5"]
    run = create_run(load_recipe("demo", overrides), tmp_path, "run")
    with pytest.raises(SimclrPlusError) as caught:
        train(run, quiet=True)
    good = run.checkpoint_files()[-1]
    assert f"the last good checkpoint is {good}" in str(caught.value)
    assert "not finite at step" in str(caught.value) and "learning rate" in str(caught.value)
    assert all(torch.isfinite(v).all() for k, v in load_file(good).items() if k.startswith("encoder"))


def test_init_from_starts_from_given_weights(tmp_path: Path, tiny: list[str]) -> None:
    first = trained(tmp_path, tiny, "first")
    encoder = first.path / "encoder.safetensors"
    given = create_run(load_recipe("demo", [*tiny, *EACH_STEP, f"training.init_from={encoder}"]), tmp_path, "given")
    train(given, quiet=True)
    after_one = load_checkpoint(given.checkpoint_files()[0])  # its learning rate was 0
    assert torch.equal(after_one.tensors["encoder.conv1.weight"], load_encoder(encoder).state_dict()["conv1.weight"])
    other = create_run(load_recipe("demo", [f"training.init_from={encoder}"]), tmp_path, "other")
    with pytest.raises(CheckpointError, match=r"init_from .*set \[encoder\] to match"):
        train(other, quiet=True)


def test_a_file_to_start_from_that_will_not_do_is_told_before_a_run_is_made(tmp_path: Path, tiny: list[str]) -> None:
    bad = ResNet(18, 0.125, stem="cifar")
    with torch.no_grad():
        bad.conv1.weight[0] = torch.nan
    save_encoder(bad, tmp_path / "bad.safetensors")
    save_encoder(ResNet(18, 0.25, stem="cifar"), tmp_path / "other.safetensors")
    for name in ("bad", "other", "absent"):
        given = f"training.init_from={tmp_path / name}.safetensors"
        done = CliRunner().invoke(app, ["run", "demo", *tiny, given, "--runs", str(tmp_path / "runs")])
        assert done.exit_code != 0 and not (tmp_path / "runs").exists()


def test_the_newest_checkpoints_and_one_each_n_epochs_are_kept(tmp_path: Path, tiny: list[str]) -> None:
    keep = [
        "training.epochs=5",
        "checkpoints.every_epochs=0.5",
        "checkpoints.keep_last=2",
        "checkpoints.keep_every_epochs=2",
    ]
    run = trained(tmp_path, [*tiny, *keep])
    assert [int(p.stem[5:]) for p in run.checkpoint_files()] == [16, 32, 40, 41]


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path, tiny: list[str]) -> None:
    run = trained(tmp_path, tiny)
    run.recipe_file.write_text(run.recipe_file.read_text().replace("limit = 256", "limit = 255"))
    with pytest.raises(CheckpointError, match=r"was trained on 256 images .* now holds 255"):
        train(run, quiet=True)


def test_knn_without_labelled_images_is_refused_before_training(tmp_path: Path, tiny: list[str], photos: Path) -> None:
    flat = [*tiny, "data.name=folder", f"data.root={photos / 'sand'}", "data.limit=0", "training.batch_size=8"]
    run = create_run(load_recipe("demo", [*flat, "monitor.knn_every_epochs=1"]), tmp_path, "run")
    with pytest.raises(SimclrPlusError, match=r"needs labelled images.*monitor\.knn_every_epochs = 0"):
        train(run, quiet=True)
    assert run.metrics() == []


def test_knn_of_other_classes_is_refused_before_training(tmp_path: Path, tiny: list[str]) -> None:
    """Separable colours, a class missing in val: each label would mean another class there."""
    for part, classes in {"train": "abc", "val": "bc"}.items():
        for name in classes:
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (16, 16), (80 * "abc".index(name), 10 * i, 0)).save(
                    tmp_path / part / name / f"{i}.png"
                )
    folder = [*tiny, "data.name=folder", f"data.root={tmp_path}", "data.limit=0", "training.batch_size=8"]
    run = create_run(load_recipe("demo", [*folder, "monitor.knn_every_epochs=1"]), tmp_path, "run")
    with pytest.raises(SimclrPlusError, match=r"\ba of .*monitor\.knn_every_epochs = 0"):
        train(run, quiet=True)
    assert run.metrics() == []


def test_skipped_images_of_any_name_are_listed_and_what_was_found_in_the_folder_is_noted(
    tmp_path: Path, tiny: list[str]
) -> None:
    (tmp_path / "photos" / ".hidden").mkdir(parents=True)
    for i in range(20):
        drawing = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
        drawing.putpixel((i % 16, 3), (0, 0, 0, 255))
        drawing.save(tmp_path / "photos" / f"{i}.png")
    for name in (b"caf\xe9.png", b"two\nlines.png"):
        with open(os.fsencode(tmp_path) + b"/photos/" + name, "wb") as file:  # noqa: PTH123
            file.write(b"broken")
    folder = ["data.name=folder", f"data.root={tmp_path / 'photos'}", "data.limit=0", "data.on_bad_image=skip"]
    run = trained(tmp_path, [*tiny, *folder, "training.batch_size=8", "training.epochs=2"])
    lines = (run.logs / "skipped.0.txt").read_bytes().splitlines()
    assert [os.path.basename(line) for line in lines] == [b"caf\xe9.png", rb"two\nlines.png"]  # noqa: PTH119
    assert run.metrics()[-1]["images_skipped"] == 2
    notes = [event["message"] for event in run.events() if event["event"] == "note"]
    assert any(".hidden" in note for note in notes) and any("data.background" in note for note in notes)


def test_a_batch_larger_than_the_data_never_starts(tmp_path: Path, tiny: list[str]) -> None:
    run = create_run(load_recipe("demo", [*tiny, "data.limit=20"]), tmp_path, "run")
    with pytest.raises(RecipeError, match="exceeds the 20 images"):
        train(run, quiet=True)


def test_the_monitor_measures_knn_without_changing_the_training(tmp_path: Path, tiny: list[str]) -> None:
    plain, watched = (
        trained(tmp_path, tiny, "plain"),
        trained(tmp_path, [*tiny, "monitor.knn_every_epochs=1"], "watched"),
    )
    weights = [load_file(run.path / "encoder.safetensors") for run in (plain, watched)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert 0.1 < watched.metrics()[-1]["knn_accuracy"] < 1 and "knn_accuracy" not in plain.metrics()[-1]
    (start,) = [event for event in watched.events() if event["event"] == "start"]  # what the accuracy stands on
    bank, queries = (open_images(watched.recipe().data, split) for split in (TRAIN, TEST))
    assert start["knn"] == {"bank": min(4000, len(bank)), "queries": min(2000, len(queries)), "neighbours": 20}
    assert (start["images"], start["classes"]) == (len(open_training_images(watched.recipe())), 10)


def test_a_run_that_augments_on_the_device_is_that_of_the_cpu_and_resumes_bit_for_bit(
    tmp_path: Path, tiny: list[str]
) -> None:
    overrides = [*tiny, "augmentation.augment_on=device", *EACH_STEP]
    device, again, cpu = (
        trained(tmp_path, overrides, "device"),
        trained(tmp_path, overrides, "again"),
        trained(tmp_path, [*tiny, "augmentation.augment_on=cpu"], "cpu"),
    )
    first, of_cpu = device.metrics()[0], cpu.metrics()[0]
    assert first["loss"] == pytest.approx(of_cpu["loss"], abs=1e-4)
    assert last_bytes(device) == last_bytes(again)
    for path in again.checkpoint_files()[4:]:
        path.unlink()
    assert train(again, quiet=True) == "finished"
    assert last_bytes(device) == last_bytes(again)


def test_a_run_with_every_operation_of_the_studies_ends_the_same_in_one_piece_and_resumed(
    tmp_path: Path, tiny: list[str]
) -> None:
    names = ", ".join(f'"{name}"' for name in OPERATIONS)
    study = [*tiny, f"augmentation.operations=[{names}]", "augmentation.operation_prob=0.3", *EACH_STEP]
    whole = trained(tmp_path, study, "whole")
    assert whole.metrics()[-1]["step"] == 9 and len(whole.metrics()) == 9
    cut = create_run(load_recipe("demo", study), tmp_path, "cut")
    cut.checkpoints.mkdir(parents=True)
    middle = whole.checkpoint_files()[4]
    (cut.checkpoints / middle.name).write_bytes(middle.read_bytes())
    train(cut, quiet=True)
    assert last_bytes(cut) == last_bytes(whole)
    assert last_bytes(trained(tmp_path, tiny, "plain")) != last_bytes(whole)


def own_folder(folder: Path, photos: Path) -> Path:
    """A copy of the photographs, whose names and sizes a test may change."""
    shutil.copytree(photos, folder)
    return folder


def of_photos(tiny: list[str], root: Path) -> list[str]:
    # 48 images, 3 steps an epoch
    data = ["data.name=folder", f"data.root={root}", "data.limit=0", "training.batch_size=16"]
    return [*tiny, *data, "training.epochs=1", "training.warmup_epochs=0", "checkpoints.every_epochs=0.34"]


def cut_after_the_first_step(run: Run) -> Run:
    for file in run.checkpoint_files()[1:]:
        file.unlink()
    return run


def on(run: Run, root: Path) -> Run:
    """The run with its recipe's folder changed."""
    lines = run.recipe_file.read_text().splitlines()
    run.recipe_file.write_text("\n".join(f'root = "{root}"' if x.startswith("root =") else x for x in lines) + "\n")
    return run


def test_a_run_is_not_resumed_on_other_images_of_the_same_number(tmp_path: Path, tiny: list[str], photos: Path) -> None:
    here = own_folder(tmp_path / "here", photos)
    run = cut_after_the_first_step(trained(tmp_path, of_photos(tiny, here)))
    logged = run.metrics_file.read_bytes()

    renamed = own_folder(tmp_path / "renamed", photos)
    (renamed / "sand" / "03.jpg").rename(renamed / "sand" / "zebra.jpg")
    with pytest.raises(CheckpointError, match="names"):
        train(on(run, renamed), quiet=True)

    replaced = own_folder(tmp_path / "replaced", photos)
    with (replaced / "sea" / "05.jpg").open("ab") as file:
        file.write(b"\0" * 100)
    with pytest.raises(CheckpointError, match="sizes"):
        train(on(run, replaced), quiet=True)

    assert run.metrics_file.read_bytes() == logged and len(run.checkpoint_files()) == 1
    moved = own_folder(tmp_path / "moved", photos)
    assert train(on(run, moved), quiet=True) == "finished"


def test_a_checkpoint_that_does_not_tell_which_images_it_saw_is_gone_on_from(tmp_path: Path, tiny: list[str]) -> None:
    run = cut_after_the_first_step(trained(tmp_path, [*tiny, *EACH_STEP]))
    unbroken = trained(tmp_path, [*tiny, *EACH_STEP], "unbroken")
    path = run.checkpoint_files()[0]
    header = read_header(path)
    assert header.pop("listing_digest") and header.pop("images_digest")
    write_tensors(path, load_file(path), header)
    assert train(run, quiet=True) == "finished" and last_bytes(run) == last_bytes(unbroken)


@pytest.mark.parametrize("key", ["batch_size = 32", "seed = 0"])
def test_a_run_is_not_resumed_by_a_recipe_that_shows_other_images(tmp_path: Path, tiny: list[str], key: str) -> None:
    run = cut_after_the_first_step(trained(tmp_path, [*tiny, *EACH_STEP]))
    run.recipe_file.write_text(run.recipe_file.read_text().replace(key, f"{key.split()[0]} = 16"))
    logged = run.metrics_file.read_bytes()
    with pytest.raises(RecipeError, match=f"{key.split()[0]} = 16"):
        train(run, quiet=True)
    assert run.metrics_file.read_bytes() == logged and len(run.checkpoint_files()) == 1


def test_a_stop_is_heard_long_before_the_end_though_nothing_is_logged(tmp_path: Path, tiny: list[str]) -> None:
    endless = ["training.epochs=5000", "monitor.log_every_steps=100000", "checkpoints.every_epochs=5000"]
    run = create_run(load_recipe("demo", [*tiny, *endless]), tmp_path, "run")
    threading.Timer(1.0, run.ask_to_stop).start()
    begun = time.monotonic()
    assert train(run, quiet=True) == "stopped" and time.monotonic() - begun < 60
    assert run.metrics() == [] and len(run.checkpoint_files()) == 1


def test_a_loss_that_is_not_finite_is_seen_long_before_the_end_though_nothing_is_logged(
    tmp_path: Path, tiny: list[str]
) -> None:
    rate = ["optimizer.name=sgd", "optimizer.learning_rate=1e30", "training.warmup_epochs=0"]
    endless = ["training.epochs=5000", "monitor.log_every_steps=100000", "checkpoints.every_epochs=5000"]
    run = create_run(load_recipe("demo", [*tiny, *rate, *endless]), tmp_path, "run")
    begun = time.monotonic()
    with pytest.raises(SimclrPlusError, match="not finite at step"):
        train(run, quiet=True)
    assert time.monotonic() - begun < 60 and run.checkpoint_files() == []


@pytest.mark.parametrize("rule", ["optimizer.name=adam", "optimizer.name=sgd", "optimizer.sgd_momentum=rate_inside"])
def test_what_one_update_rule_kept_is_not_used_by_another(tmp_path: Path, tiny: list[str], rule: str) -> None:
    before = ["optimizer.name=sgd"] if "sgd_momentum" in rule else ["optimizer.name=lars"]
    first = trained(tmp_path, [*tiny, *before, *EACH_STEP], "first").checkpoint_files()[3]
    ends = []
    for name, factor in (("as it was", 1.0), ("with other momenta", 1000.0)):
        run = create_run(load_recipe("demo", [*tiny, *before, rule, *EACH_STEP]), tmp_path, name)
        run.checkpoints.mkdir()
        tensors = {k: v * factor if k.startswith("optimizer.") else v for k, v in load_file(first).items()}
        write_tensors(run.checkpoints / first.name, tensors, read_header(first))
        assert train(run, quiet=True) == "finished"
        ends.append(last_bytes(run))
        assert [event for event in run.events() if event["event"] == "note"]
    assert ends[0] == ends[1]


def test_a_scheduler_that_sets_world_size_for_its_own_use_does_not_make_a_run_wait(
    tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    run = trained(tmp_path, tiny)
    assert run.events()[0]["processes"] == 1 and run.metrics()[-1]["step"] == 9
