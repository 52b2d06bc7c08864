from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_recipe import TINY

from simclr_plus.augmentations.finishing import finish_views
from simclr_plus.augmentations.law import OPERATIONS, simclr_law
from simclr_plus.datasets import PRETRAIN, Images, open_folder, open_images
from simclr_plus.datasets.batches import ViewBatches, evaluation_batches
from simclr_plus.errors import UnreadableImageError
from simclr_plus.recipe import load_recipe
from simclr_plus.recipe.keys import Data
from simclr_plus.training.trainer import view_batches

LAW = simclr_law(28, 0.5, blur_sigma_group=8)


@pytest.fixture(scope="module")
def few() -> Images:
    return open_images(Data(limit=50), PRETRAIN)


def test_every_epoch_shows_each_image_once(few: Images) -> None:
    numbered = Images("n", few.pixels, (), np.arange(50), tuple(map(str, range(50))))
    batches = ViewBatches(numbered, LAW, batch_size=10, seed=3)
    epochs = [torch.cat([batches.batch(step)[1] for step in range(e * 5, e * 5 + 5)]).tolist() for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50)) and epochs[0] != epochs[1]


def test_a_batch_may_reach_over_the_end_of_an_epoch(few: Images) -> None:
    whole, straddling = ViewBatches(few, LAW, batch_size=25, seed=3), ViewBatches(few, LAW, batch_size=20, seed=3)
    stream = torch.cat([whole.batch(step)[0].unflatten(0, (2, -1)) for step in range(4)], dim=1)
    batch = straddling.batch(2)[0].unflatten(0, (2, -1))  # images 40 to 59 of the stream
    law_without_groups = simclr_law(28, 0.5)
    assert law_without_groups.blur_sigma_group == 0
    same = [torch.equal(batch[:, i], stream[:, 40 + i]) for i in range(20)]
    blurred_apart = 20 - sum(same)  # sigma belongs to the step and its groups, the rest to the image
    assert blurred_apart < 20 and batch.shape == (2, 20, 3, 28, 28)


def test_processes_share_out_the_same_batch(few: Images) -> None:
    whole = ViewBatches(few, LAW, batch_size=24, seed=1).batch(3)[0].unflatten(0, (2, -1))
    for processes in (2, 3, 4):
        parts = [
            ViewBatches(few, LAW, batch_size=24, seed=1, rank=r, processes=processes).batch(3)[0].unflatten(0, (2, -1))
            for r in range(processes)
        ]
        assert torch.equal(torch.cat(parts, dim=1), whole)


def test_threads_change_nothing(few: Images, photos: Path) -> None:
    for images, law in ((few, LAW), (open_folder(photos), simclr_law(64))):
        one, three = (ViewBatches(images, law, batch_size=16, seed=1, threads=n).batch(5) for n in (1, 3))
        assert torch.equal(one[0], three[0]) and torch.equal(one[1], three[1])


@pytest.mark.parametrize("where", ["memory", "files"])
def test_colour_and_blur_on_the_device_give_the_same_batch_whatever_the_threads(
    few: Images, photos: Path, where: str
) -> None:
    images = few if where == "memory" else open_folder(photos)
    law = simclr_law(28, 0.5, blur_sigma_group=8) if where == "memory" else simclr_law(64)
    settings = {"batch_size": 20, "seed": 1}
    expected = ViewBatches(images, law, **settings).batch(2)
    found = [ViewBatches(images, law, **settings, threads=n, finish=finish_views).batch(2) for n in (1, 3)]
    assert torch.equal(found[0][0], found[1][0])
    assert (found[0][0] - expected[0]).abs().max() < 1e-5 and torch.equal(found[0][1], expected[1])
    for crops in ("float16", "uint8"):
        near = ViewBatches(images, law, **settings, finish=finish_views, crops=crops).batch(2)[0]
        error = (near - expected[0]).abs()
        assert error.max() > 1e-5 and error.mean() < 5e-3, crops


@pytest.mark.parametrize("names", [OPERATIONS[:4], OPERATIONS[4:8], OPERATIONS[8:]])
def test_operations_of_a_study_are_the_same_whatever_processes_threads_and_steps_before(
    few: Images, names: tuple[str, ...]
) -> None:
    law = replace(LAW, operations=names, operation_prob=0.7)
    batches = ViewBatches(few, law, batch_size=24, seed=1)
    whole = batches.batch(3)[0]
    batches.batch(0)
    assert torch.equal(batches.batch(3)[0], whole)
    assert torch.equal(ViewBatches(few, law, batch_size=24, seed=1, threads=3).batch(3)[0], whole)
    for processes in (2, 3):
        shares = [ViewBatches(few, law, batch_size=24, seed=1, rank=r, processes=processes) for r in range(processes)]
        parts = [share.batch(3)[0].unflatten(0, (2, -1)) for share in shares]
        assert torch.equal(torch.cat(parts, dim=1).flatten(0, 1), whole)
    assert not torch.equal(ViewBatches(few, LAW, batch_size=24, seed=1).batch(3)[0], whole)
    assert not torch.equal(ViewBatches(few, law, batch_size=24, seed=2).batch(3)[0], whole)


@pytest.mark.parametrize("where", ["memory", "files"])
def test_operations_follow_the_views_also_where_a_device_finished_them(few: Images, photos: Path, where: str) -> None:
    images, size = (few, 28) if where == "memory" else (open_folder(photos), 64)
    law = simclr_law(size, 0.5, operations=("crop", "cutout", "rotate", "noise"))
    settings = {"batch_size": 20, "seed": 1}
    made, finished = (ViewBatches(images, law, **settings, finish=f).batch(2)[0] for f in (None, finish_views))
    plain = ViewBatches(images, replace(law, operations=()), **settings).batch(2)[0]
    assert (made - finished).abs().max() < 1e-5 and (made - plain).abs().mean() > 0.05


def test_in_figure_5_the_first_branch_alone_is_changed_and_the_second_is_the_plain_crop(few: Images) -> None:
    crops = replace(LAW.crop_and_flip_only(), same_crop=True)
    law = replace(crops, operations=("color", "cutout"), operations_on="first")
    settings = {"batch_size": 24, "seed": 1}
    first, second = ViewBatches(few, law, **settings).batch(1)[0].chunk(2)
    plain = ViewBatches(few, crops, **settings).batch(1)[0].chunk(2)
    assert torch.equal(second, plain[1]) and torch.equal(plain[0], plain[1])
    ordinary = ViewBatches(few, LAW.crop_and_flip_only(), **settings).batch(1)[0].chunk(2)
    assert torch.equal(ordinary[0], plain[0]) and not torch.equal(ordinary[1], plain[0])
    both = ViewBatches(few, replace(law, operations_on="both"), **settings).batch(1)[0].chunk(2)
    assert torch.equal(both[0], first) and all((a != b).any() for a, b in zip(first, second, strict=True))


def test_where_there_is_one_view_it_is_the_first(few: Images) -> None:
    law = replace(LAW, operations=("color", "rotate"), operations_on="first", blur_sigma_group=0)
    pair, (one, _) = (ViewBatches(few, law, batch_size=10, seed=1, views=v).batch(1) for v in (2, 1))
    assert torch.equal(pair[0][:10], one) and one.shape == (10, 3, 28, 28)


def test_without_operations_none_is_asked_for(few: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simclr_plus.datasets.batches.apply_operations", None)
    assert ViewBatches(few, LAW, batch_size=10, seed=1).batch(0)[0].shape == (20, 3, 28, 28)
    with pytest.raises(TypeError):
        ViewBatches(few, replace(LAW, operations=("crop",)), batch_size=10, seed=1).batch(0)


def test_evaluation_shows_no_operation(few: Images) -> None:
    law = replace(LAW, operations=("solarize",), same_crop=True)
    shown, plain = (torch.cat([views for views, _ in evaluation_batches(few, x)]) for x in (law, LAW))
    assert torch.equal(shown, plain)


def test_a_resumed_stream_is_the_stream(few: Images) -> None:
    unbroken = list(ViewBatches(few, LAW, batch_size=10, seed=1).batches(0, 8))
    resumed = list(ViewBatches(few, LAW, batch_size=10, seed=1).batches(5, 8))
    assert all(torch.equal(a.views, b.views) for a, b in zip(unbroken[5:], resumed, strict=True))
    assert all(b.waited >= 0 for b in unbroken)


def test_an_unreadable_image_stops_or_is_replaced_by_one_that_is_not_in_the_batch_and_counted(tmp_path: Path) -> None:
    for i in range(6):
        Image.fromarray(np.full((20, 20, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"broken")
    images, law = open_folder(tmp_path), simclr_law(16, 0.0, blur_prob=0.0, gray_prob=0.0)
    skips = replace(images, skip_bad=True)
    with pytest.raises(UnreadableImageError, match=r"3\.png"):
        ViewBatches(images, law, batch_size=6, seed=0).batch(0)
    skipping = ViewBatches(skips, law, batch_size=3, seed=0)
    step = next(step for step in range(2) if 3 in skipping._batch(step)[1])
    views, _ = skipping.batch(step)
    assert skipping.skipped == {3}
    study = ViewBatches(skips, replace(law, operations=("solarize",)), batch_size=3, seed=0)
    assert torch.equal(study.batch(step)[0], torch.where(views < 0.5, views, 1 - views))
    shown = {round(float(v) * 255) for v in views[:3].mean(dim=(1, 2, 3))}
    assert len(shown) == 3 and 120 not in shown
    with pytest.raises(UnreadableImageError, match=r"3\.png"):
        list(evaluation_batches(images, law))
    ((views, indices),) = evaluation_batches(skips, law)
    assert indices.tolist() == [0, 1, 2, 4, 5] and round(float(views[3].mean()) * 255) == 160


def test_a_folder_without_one_readable_image_says_so(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(b"broken")
    with pytest.raises(UnreadableImageError, match="all 2 were tried"):
        ViewBatches(replace(open_folder(tmp_path), skip_bad=True), LAW, batch_size=2, seed=0).batch(0)


def test_evaluation_shows_small_images_as_they_are_in_order(few: Images) -> None:
    batches = list(evaluation_batches(few, LAW, batch_size=20))
    assert [len(indices) for _, indices in batches] == [20, 20, 10]
    assert few.pixels is not None
    shown = torch.cat([views for views, _ in batches])
    assert torch.allclose(shown, torch.from_numpy(few.pixels).permute(0, 3, 1, 2) / 255, atol=1e-6)


def grays(folder: Path, count: int, unreadable: set[int]) -> Images:
    """Image i is of gray 2 i + 2 and has label i."""
    for i in range(count):
        Image.fromarray(np.full((9, 9, 3), 2 * i + 2, np.uint8)).save(folder / f"{i:03}.png")
        if i in unreadable:
            (folder / f"{i:03}.png").write_bytes(b"broken")
    return replace(open_folder(folder), skip_bad=True, labels=np.arange(count), classes=tuple(map(str, range(count))))


PLAIN = simclr_law(8, 0.0, blur_prob=0.0, gray_prob=0.0)


def shown_in(images: Images, step: int, batch_size: int, processes: int, threads: int = 2) -> list[int]:
    """Which images the views of the global batch show, and that their labels say so."""
    found = []
    for rank in range(processes):
        batches = ViewBatches(
            images, PLAIN, batch_size=batch_size, seed=4, rank=rank, processes=processes, threads=threads
        )
        views, labels = batches.batch(step)
        grays = [round(float(view.mean()) * 255) // 2 - 1 for view in views.chunk(2)[0]]
        assert grays == labels.tolist()
        found += grays
    return found


@pytest.mark.parametrize(
    ("count", "batch_size", "bad"), [(60, 12, 5), (60, 12, 30), (60, 12, 48), (20, 12, 8), (14, 12, 2), (40, 6, 3)]
)
def test_what_replaces_unreadable_images_is_never_twice_in_a_batch_nor_another_in_other_processes(
    tmp_path: Path, count: int, batch_size: int, bad: int
) -> None:
    unreadable = set(np.random.default_rng(count + bad).permutation(count)[:bad].tolist())
    images = grays(tmp_path, count, unreadable)
    for step in range(4):
        batch = ViewBatches(images, PLAIN, batch_size=batch_size, seed=4)._batch(step)[1].tolist()
        alone = shown_in(images, step, batch_size, 1)
        assert not unreadable & set(alone)
        assert all(a == b for a, b in zip(alone, batch, strict=True) if b not in unreadable)
        if len(set(batch)) == batch_size:  # else it reaches over the end of an epoch
            assert len(set(alone)) == batch_size
        assert shown_in(images, step, batch_size, 2, threads=1) == shown_in(images, step, batch_size, 3) == alone


def test_too_few_readable_images_for_a_batch_end_in_words(tmp_path: Path) -> None:
    images = grays(tmp_path, 16, set(range(1, 16)))
    for batch_size, processes in ((16, 1), (8, 2), (2, 1)):
        with pytest.raises(UnreadableImageError, match=r"15 of the 16 images .*batch_size"):
            shown_in(images, 0, batch_size, processes)


@pytest.mark.parametrize("name", ["simclr", "cpc", "dim", "amdim", "moco", "exemplar"])
def test_no_image_is_its_own_negative_where_few_can_be_read(tmp_path: Path, name: str) -> None:
    images = grays(tmp_path, 8, {1, 2, 3, 4, 5})
    settings = [
        "training.batch_size=6",
        f"method.name={name}",
        *({"moco": ["method.queue=6", "method.norm_group=2"]}.get(name, [])),
    ]
    recipe = load_recipe("demo", [*TINY, *settings, "augmentation.image_size=32", "encoder.stem=cifar"])
    with pytest.raises(UnreadableImageError, match="3 are too few for batches of 6 different images"):
        view_batches(recipe, images, torch.device("cpu")).batch(0)


@pytest.mark.parametrize("name", ["rotation", "autoencoder"])
def test_an_image_may_come_twice_where_images_are_not_compared(tmp_path: Path, name: str) -> None:
    images = grays(tmp_path, 8, {1, 2, 3, 4, 5})
    recipe = load_recipe("demo", [*TINY, "training.batch_size=6", f"method.name={name}"])
    _, labels = view_batches(recipe, images, torch.device("cpu")).batch(0)
    assert set(labels.tolist()) == {0, 6, 7}


def test_where_labels_are_learnt_a_readable_image_may_come_again(tmp_path: Path) -> None:
    images = grays(tmp_path, 6, {1, 2, 3, 4})
    _, labels = ViewBatches(images, PLAIN, batch_size=6, seed=0, views=1, repeats=True).batch(0)
    assert set(labels.tolist()) == {0, 5}
