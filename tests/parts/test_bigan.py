"""BiGAN's parts: losses against golden numbers, discriminators, one backward pass against two optimizers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
import torch
from places import GOLDEN_FOLDER
from torch import Tensor, nn

from simclr_plus.parts.bigan import (
    Form,
    Frozen,
    JointDiscriminator,
    LatentHead,
    SpectralDiscriminator,
    discriminator_loss,
    encoder_generator_loss,
    scores_of,
)
from simclr_plus.parts.decoder import Decoder
from simclr_plus.parts.generative_shapes import joint_parameters, spectral_parameters

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "instance_losses.npz")
FORMS: tuple[Form, ...] = ("logistic", "hinge")


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name]).clone()


def gradients(loss: Tensor, *scores: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, scores)


def test_the_logistic_losses_and_their_gradients_are_the_golden_ones() -> None:
    real, fake = (golden(f"bigan/score_{name}").requires_grad_() for name in ("real", "fake"))
    for loss, name in ((discriminator_loss, "d"), (encoder_generator_loss, "eg")):
        value = loss(real, fake, "logistic")
        assert float(value.detach()) == pytest.approx(float(GOLDEN[f"bigan/loss_{name}"]), rel=1e-6)
        for gradient, kind in zip(gradients(value, real, fake), ("real", "fake"), strict=True):
            assert torch.allclose(gradient, golden(f"bigan/grad_{name}_{kind}"), rtol=1e-6, atol=1e-12)


def test_the_hinge_of_three_scores_is_the_golden_one_and_its_mean_runs_over_all() -> None:
    real, fake = (golden(f"bigbigan/score_{name}").requires_grad_() for name in ("real", "fake"))
    value = discriminator_loss(real, fake, "hinge")
    assert float(value.detach()) == pytest.approx(float(GOLDEN["bigbigan/loss_d"]), rel=1e-6)
    for gradient, kind in zip(gradients(value, real, fake), ("real", "fake"), strict=True):
        assert torch.allclose(gradient, golden(f"bigbigan/grad_d_{kind}"), rtol=1e-6, atol=1e-12)
    of_e_and_g = float(GOLDEN["bigbigan/loss_e"] + GOLDEN["bigbigan/loss_g"])
    assert float(encoder_generator_loss(real, fake, "hinge").detach()) == pytest.approx(of_e_and_g, rel=1e-6)
    gradient_e, gradient_g = gradients(encoder_generator_loss(real, fake, "hinge"), real, fake)
    assert torch.allclose(gradient_e, torch.full_like(real, 1 / 18)) and torch.equal(gradient_g, -gradient_e)


@pytest.mark.parametrize(("form", "of_d", "of_eg"), [("logistic", math.log(2), math.log(2)), ("hinge", 2, 0)])
def test_scores_of_nought_have_the_losses_of_guessing(form: Form, of_d: float, of_eg: float) -> None:
    zero = torch.zeros(5, 3)
    assert float(discriminator_loss(zero, zero, form)) == pytest.approx(of_d)
    assert float(encoder_generator_loss(zero, zero, form)) == pytest.approx(of_eg)


@pytest.mark.parametrize("form", FORMS)
def test_with_the_roles_swapped_the_loss_is_that_of_the_opposite_scores(form: Form) -> None:
    real, fake = torch.randn(2, 6, 3, dtype=torch.float64).unbind(0)
    assert torch.allclose(discriminator_loss(fake, real, form), discriminator_loss(-real, -fake, form))
    assert torch.allclose(encoder_generator_loss(fake, real, form), encoder_generator_loss(-real, -fake, form))
    if form == "logistic":
        assert torch.allclose(encoder_generator_loss(real, fake, form), discriminator_loss(fake, real, form))


def test_codes_have_the_support_of_their_prior() -> None:
    head = LatentHead(5, 5)
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(5))
    assert torch.allclose(head.double()(golden("prior/logits")), golden("prior/uniform"), rtol=1e-6, atol=1e-12)
    normal = LatentHead(4, 3, "normal").double()
    h, noise = torch.randn(2, 4).double(), torch.randn(2, 3).double()
    mean, deviation = (h @ normal.linear.weight.T).chunk(2, dim=1)
    assert torch.allclose(normal(h, noise), mean + torch.log1p(deviation.exp()) * noise)
    assert torch.equal(normal(h), mean)


SIDES = [(28, 2, 7, 7), (32, 3, 4, 4), (33, 3, 5, 4), (64, 4, 4, 4), (96, 4, 6, 6), (224, 5, 7, 7)]


@pytest.mark.parametrize(("side", "levels", "of_joint", "of_spectral"), SIDES)
def test_discriminators_take_every_side_and_have_the_parameters_that_are_told(
    side: int, levels: int, of_joint: int, of_spectral: int
) -> None:
    joint, spectral = JointDiscriminator(5, side, 2, 1), SpectralDiscriminator(5, side, 2, 1)
    x, z = torch.rand(3, 1, side, side), torch.randn(3, 5)
    assert joint(x, z).shape == (3, 1) and spectral(x, z).shape == (3, 3)
    widest = 2 * 2 ** min(levels - 1, 3)
    assert joint.score.in_features == widest * of_joint**2 and len(joint.norms) == levels - 1
    flat = next(m for m in spectral.of_x if isinstance(m, nn.Linear))
    assert flat.in_features == widest * of_spectral**2
    counts = [sum(p.numel() for p in network.parameters()) for network in (joint, spectral)]
    assert counts == [joint_parameters(5, side, 2, 1), spectral_parameters(5, side, 2, 1, unary=True)]
    without = SpectralDiscriminator(5, side, 2, 1, unary=False)
    assert without(x, z).shape == (3, 1)
    assert sum(p.numel() for p in without.parameters()) == spectral_parameters(5, side, 2, 1, unary=False)


def test_the_joint_one_starts_as_the_original_and_guesses() -> None:
    joint = JointDiscriminator(200, 64)
    shapes = [tuple(m.weight.shape) for m in joint.modules() if isinstance(m, nn.Conv2d)]
    assert shapes == [(64, 3, 5, 5), (128, 64, 5, 5), (256, 128, 5, 5), (512, 256, 5, 5)]
    assert [code.weight.shape for code in joint.codes] == [(128, 200), (256, 200), (512, 200)]  # type: ignore[union-attr]
    assert all(0.49 < float(code.weight.detach().std()) < 0.51 for code in joint.codes)  # type: ignore[union-attr, operator]
    assert not joint(torch.rand(2, 3, 64, 64), torch.rand(2, 200)).any() and joint.score.bias is None
    with pytest.raises(ValueError, match="image_size = 15"):
        JointDiscriminator(4, 15)


def test_pictures_enter_between_minus_one_and_one() -> None:
    joint = JointDiscriminator(3, 16, 2, 1)
    seen: list[Tensor] = []
    joint.first.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    joint(torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 16, 16), torch.zeros(3, 3))
    assert seen[0].amax((1, 2, 3)).tolist() == [-1, 0, 1]


def test_unary_scores_see_an_image_alone_and_a_code_alone() -> None:
    network = SpectralDiscriminator(3, 16, 2, 1).eval()
    (x, y), (z, w) = torch.rand(2, 2, 1, 16, 16).unbind(0), torch.randn(2, 2, 3).unbind(0)
    whole, other_code, other_image = network(x, z), network(x, w), network(y, z)
    assert torch.equal(whole[:, 1], other_code[:, 1]) and not torch.allclose(whole[:, 1], other_image[:, 1], atol=1e-7)
    assert torch.equal(whole[:, 2], other_image[:, 2]) and not torch.allclose(whole[:, 2], other_code[:, 2], atol=1e-7)
    assert not torch.allclose(whole[:, 0], other_code[:, 0], atol=1e-7)


def test_batch_norm_never_sees_real_and_fake_rows_in_one_pass() -> None:
    joint = JointDiscriminator(3, 16, 2, 1)
    nn.init.normal_(joint.score.weight)
    real, fake = ((torch.rand(4, 1, 16, 16), torch.randn(4, 3)) for _ in range(2))
    scores, _ = scores_of(joint, real, fake)
    assert torch.equal(scores, copy.deepcopy(joint)(*real))
    assert torch.equal(scores, scores_of(joint, real, (fake[0] * 0, fake[1]))[0])


@pytest.mark.parametrize("kind", ["joint", "spectral"])
def test_a_frozen_network_gives_inputs_their_gradient_and_changes_nothing(kind: str) -> None:
    network = JointDiscriminator(3, 16, 2, 1) if kind == "joint" else SpectralDiscriminator(3, 16, 2, 1)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    before = copy.deepcopy(network.state_dict())
    x, z = torch.rand(4, 1, 16, 16).requires_grad_(), torch.randn(4, 3).requires_grad_()
    scores = Frozen(network)(x, z)
    assert torch.equal(scores, copy.deepcopy(network)(x, z))
    scores.sum().backward()
    assert x.grad is not None and x.grad.any() and z.grad is not None and z.grad.any()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


class Players(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f = nn.Sequential(nn.Flatten(), nn.Linear(256, 6), nn.ReLU())
        self.head, self.g = LatentHead(6, 3), Decoder(3, 16, 2, 1)
        joint = kind == "joint"
        self.d: JointDiscriminator | SpectralDiscriminator = (
            JointDiscriminator(3, 16, 2, 1) if joint else SpectralDiscriminator(3, 16, 2, 1)
        )
        if joint:
            nn.init.normal_(self.d.score.weight, std=0.1)  # type: ignore[union-attr]
        self.double()

    def pairs(self, x: Tensor, z: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return (x, self.head(self.f(x))), (self.g(z), z)

    def others(self) -> list[nn.Parameter]:
        return list(chain(self.f.parameters(), self.head.parameters(), self.g.parameters()))


def losses_of_one_pass(players: Players, x: Tensor, z: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    (x, code), (made, z) = players.pairs(x, z)
    of_d = discriminator_loss(*scores_of(players.d, (x, code.detach()), (made.detach(), z)), form)
    return of_d, encoder_generator_loss(*scores_of(Frozen(players.d), (x, code), (made, z)), form)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    numbers = torch.Generator().manual_seed(1)
    return [
        (torch.rand(5, 1, 16, 16, generator=numbers).double(), torch.randn(5, 3, generator=numbers).double())
        for _ in range(count)
    ]


@pytest.mark.parametrize("kind", ["joint", "spectral"])
@pytest.mark.parametrize("form", FORMS)
def test_one_backward_pass_is_two_optimizers_that_step_at_once(kind: str, form: Form) -> None:
    """The reference: each player's gradient by itself, D's set aside while E and G look through it."""
    one, two = Players(kind), Players(kind)
    together = torch.optim.Adam(one.parameters(), 0.01)
    of_d, of_eg = torch.optim.Adam(two.d.parameters(), 0.01), torch.optim.Adam(two.others(), 0.01)
    for x, z in batches(3):
        together.zero_grad()
        sum(losses_of_one_pass(one, x, z, form), torch.zeros(())).backward()
        together.step()

        real, fake = two.pairs(x, z)
        scores = scores_of(two.d, (real[0], real[1].detach()), (fake[0].detach(), fake[1]))
        of_d.zero_grad()
        discriminator_loss(*scores, form).backward()
        for parameter in two.d.parameters():
            parameter.requires_grad_(False)
        kept = copy.deepcopy(two.d.state_dict())
        of_eg.zero_grad()
        encoder_generator_loss(*scores_of(two.d, real, fake), form).backward()
        two.d.load_state_dict(kept)
        for parameter in two.d.parameters():
            parameter.requires_grad_(True)
        of_d.step()
        of_eg.step()
    for (name, a), (_, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("kind", ["joint", "spectral"])
@pytest.mark.parametrize("form", FORMS)
def test_each_player_has_the_gradient_of_its_own_loss_alone(kind: str, form: Form) -> None:
    ((x, z),) = batches(1)
    players = [Players(kind) for _ in range(3)]
    sum(losses_of_one_pass(players[0], x, z, form), torch.zeros(())).backward()
    losses_of_one_pass(players[1], x, z, form)[0].backward()
    losses_of_one_pass(players[2], x, z, form)[1].backward()
    assert all(p.grad is None for p in players[1].others()) and all(p.grad is None for p in players[2].d.parameters())
    for both, of_d in zip(players[0].d.parameters(), players[1].d.parameters(), strict=True):
        assert both.grad is not None and of_d.grad is not None and torch.equal(both.grad, of_d.grad)
    for both, of_eg in zip(players[0].others(), players[2].others(), strict=True):
        assert both.grad is not None and of_eg.grad is not None and torch.equal(both.grad, of_eg.grad)
        assert both.grad.any()


def test_e_is_pushed_to_make_its_pairs_look_fake() -> None:
    """A step of E alone lowers D's scores of real pairs; of G alone, it raises those of fake ones."""
    players = Players("spectral").eval()
    ((x, z),) = batches(1)
    before = [scores.mean() for scores in scores_of(players.d, *players.pairs(x, z))]
    torch.optim.SGD(players.others(), 0.05).zero_grad()
    losses_of_one_pass(players, x, z, "hinge")[1].backward()
    torch.optim.SGD(players.others(), 0.05).step()
    after = [scores.mean() for scores in scores_of(players.d, *players.pairs(x, z))]
    assert after[0] < before[0] and after[1] > before[1]


@pytest.mark.parametrize("form", ["hinge", "logistic"])
@pytest.mark.parametrize("loss", [discriminator_loss, encoder_generator_loss])
def test_losses_of_halves_are_computed_in_full(loss: Callable[..., Tensor], form: str) -> None:
    real, fake = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(loss(real, fake, form), loss(real.float(), fake.float(), form))
