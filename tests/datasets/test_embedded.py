"""The images that ship with the package: what they are, in which order, and that no pixel is both shown and tested."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from simclr_plus.datasets import FASHION_CLASSES, PRETRAIN, TEST, TRAIN, embedded, open_images
from simclr_plus.recipe.keys import EMBEDDED, KNOWN_SIZES, Data


def test_places_come_in_rounds_of_one_piece_each() -> None:
    train, test = (open_images(Data(name="places"), split) for split in (TRAIN, TEST))
    assert train.pixels is not None and train.pixels.shape == (64 * 66, 64, 64, 3)
    assert test.pixels is not None and test.pixels.shape == (24 * 66, 64, 64, 3)
    for images, pieces in ((train, 64), (test, 24)):
        assert images.labels is not None and len(images.classes) == 66
        for count in (1, 5, pieces):
            assert set(np.bincount(images.labels[: count * 66])) == {count}


def test_no_pixel_of_a_photograph_is_in_both_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs whose pixels say their column: test pieces lie between the columns that training pieces show."""
    columns = np.broadcast_to((np.arange(720) // 3)[None, :, None], (360, 720, 3)).astype(np.uint8)
    monkeypatch.setattr(embedded, "_photographs", lambda: {"columns": columns[::2, ::2]})
    train, test = (np.unique(embedded.places(part)[0]) for part in ("train", "test"))
    assert not set(train) & set(test)
    assert train.min() == 0 and train.max() == 239 and set(range(90, 150)) <= set(test)


def test_the_pieces_stay_the_same() -> None:
    """Figures that were measured on them are those of everyone. Decoders of JPEG differ by a step at most."""
    pixels, labels, classes = embedded.places("test")
    assert classes[:3] == ("badlands0", "badlands5", "badlands7") and classes[-1] == "water8"
    assert [float(pixels[i].mean()) for i in (0, 500, 1583)] == pytest.approx([161.18, 144.57, 165.16], abs=0.3)
    assert labels.tolist() == list(range(66)) * 24


def test_the_first_images_of_fashion_mnist_are_what_the_name_embedded_has_meant_since_version_0_1() -> None:
    train, test = (open_images(Data(name="embedded"), split) for split in (TRAIN, TEST))
    assert train.pixels is not None and train.pixels.shape == (10_000, 28, 28, 3) and len(test) == 2_000
    assert train.classes == FASHION_CLASSES and train.labels is not None
    assert hashlib.sha256(train.pixels[..., 0].tobytes()).hexdigest()[:16] == "2929ae1c7b89e0ee"
    assert Data().name == "embedded"


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_plan_knows_how_many_there_are(name: str) -> None:
    assert len(open_images(Data.model_validate({"name": name}), PRETRAIN)) == KNOWN_SIZES[name]
