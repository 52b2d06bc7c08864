"""The decoder: sides and widths, the geometry of its doublings, and what of an image is told to be reconstructed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from simclr_plus.parts.decoder import Decoder, averaged, in_unit_range, reconstructed_share
from simclr_plus.parts.generative_shapes import decoder_parameters, doublings, picture_side, side_problem, widths


@pytest.mark.parametrize(
    ("side", "times", "first", "maps"),
    [
        (8, 1, 4, [8]),
        (28, 2, 7, [16, 8]),
        (32, 3, 4, [32, 16, 8]),
        (33, 3, 5, [32, 16, 8]),
        (64, 4, 4, [64, 32, 16, 8]),
        (96, 4, 6, [64, 32, 16, 8]),
        (224, 5, 7, [64, 64, 32, 16, 8]),
    ],
)
def test_a_picture_has_its_side_and_the_widths_halve_towards_it(
    side: int, times: int, first: int, maps: list[int]
) -> None:
    decoder = Decoder(5, side, width=8, channels=2)
    assert doublings(side) == (times, first) == (decoder.doublings, decoder.first_side)
    assert widths(side, 8)[::-1] == maps
    pictures = decoder(torch.randn(2, 5)).detach()
    assert pictures.shape == (2, 2, side, side) and 0 < float(pictures.min()) < float(pictures.max()) < 1
    assert sum(p.numel() for p in decoder.parameters()) == decoder_parameters(5, side, 8, 2)


def test_at_64_pixels_it_has_the_original_s_widths_and_start() -> None:
    decoder = Decoder(200, 64)
    shapes = [tuple(m.weight.shape) for m in decoder.modules() if isinstance(m, nn.Linear | nn.ConvTranspose2d)]
    assert shapes == [(8192, 200), (512, 256, 5, 5), (256, 128, 5, 5), (128, 64, 5, 5), (64, 3, 5, 5)]
    for module in decoder.modules():
        if isinstance(module, nn.Linear | nn.ConvTranspose2d):
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
            assert module.bias is None or not module.bias.any()
    assert decoder.up[-1].bias is not None


def test_a_value_of_the_map_reaches_the_five_pixels_around_its_place_on_the_doubled_one() -> None:
    """As a strided convolution with padding "SAME" looks at them; at the edges fewer."""
    layer = Decoder(1, 8, width=1, channels=1).up[-1]
    nn.init.ones_(layer.weight)
    spot = torch.zeros(1, 1, 4, 4)
    spot[0, 0, 1, 3] = 1
    lit = layer(spot)[0, 0].nonzero()
    assert sorted({int(y) for y, _ in lit}) == [0, 1, 2, 3, 4] and sorted({int(x) for _, x in lit}) == [4, 5, 6, 7]


def test_the_first_norm_is_over_each_value_so_that_places_differ() -> None:
    """A norm of channels would keep the difference in scale between two places of a map."""
    decoder = Decoder(3, 8, width=1)
    with torch.no_grad():
        decoder.linear.weight *= 100
        decoder.linear.weight[0] *= 100
    seen: list[torch.Tensor] = []
    decoder.norm.register_forward_hook(lambda _m, _i, y: seen.append(y.detach()))
    decoder(torch.randn(64, 3))
    assert torch.allclose(seen[0].std(0, correction=0), torch.ones(16), atol=1e-3)


def test_a_side_too_small_is_refused_and_a_side_of_views_is_told_with_its_remedy() -> None:
    with pytest.raises(ValueError, match="image_size = 7"):
        Decoder(3, 7)
    assert (picture_side(0, 224), picture_side(0, 28), picture_side(128, 224)) == (64, 28, 128)
    assert not side_problem(0, 224) and not side_problem(8, 224) and not side_problem(224, 224)
    for side in (1, 7, 225):
        assert all(word in side_problem(side, 224) for word in (f"method.image_size = {side}", "224", "0 for"))


def test_larger_views_become_means_of_areas_and_overshoot_is_cut() -> None:
    views = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    means = views.reshape(2, 3, 16, 2, 16, 2).mean((3, 5))
    assert torch.allclose(averaged(views, 16), means, atol=1e-12) and averaged(views, 32) is views
    assert in_unit_range(torch.tensor([-0.1, 0.25, 1.2])).tolist() == [0, 0.25, 1]


def test_the_reconstructed_share_is_that_of_a_loop_over_all_pairs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((5, 3, 4, 4)), rng.random((5, 3, 4, 4))
    own = np.mean([np.mean((x[i] - y[i]) ** 2) for i in range(5)])
    other = np.mean([np.mean((x[i] - y[j]) ** 2) for i in range(5) for j in range(5) if i != j])
    made, images = torch.from_numpy(y), torch.from_numpy(x)
    assert reconstructed_share(made, images) == pytest.approx(1 - own / other, rel=1e-12)
    assert reconstructed_share(images, images) == 1
    assert reconstructed_share(images.mean(0).expand_as(images), images) == pytest.approx(0, abs=1e-12)
    assert reconstructed_share(images.roll(1, 0), images) < 0
    black = torch.zeros_like(images)
    assert reconstructed_share(black, black) == 0


def test_pictures_are_not_rounded_under_autocast() -> None:
    decoder = Decoder(4, 16, width=4)
    with torch.autocast("cpu", torch.bfloat16):
        pictures = decoder(torch.randn(8, 4))
    assert pictures.dtype == torch.float32
    assert not torch.equal(pictures, pictures.bfloat16().float())
