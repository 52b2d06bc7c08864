"""The projection head g: h [B, input_dim] -> z [B, output_dim] (paper, 2.1; authors' model_util.py)."""

from __future__ import annotations

from torch import Tensor, nn

from simclr_plus.global_batch_norm import GlobalBatchNorm1d


class SimCLRProjectionHead(nn.Module):
    """Linear layers without bias, each with a batch norm; ReLU after all but the last, whose norm has no offset.

    num_layers = 0 is no head at all (z = h), 1 the linear head, 2 the paper's nonlinear head, 3 that of SimCLR v2.
    Weights start from N(0, 0.01). `layers` is one flat Sequential, as in Lightly, of which `batch_norm` is an argument:
    True is its one value here.
    """

    def __init__(
        self,
        input_dim: int = 2048,
        hidden_dim: int = 2048,
        output_dim: int = 128,
        num_layers: int = 2,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if not batch_norm:
            raise ValueError(
                f"batch_norm = {batch_norm}: SimCLR's head has a batch norm behind every layer; leave it out or give "
                "True, or take lightly.models.modules.SimCLRProjectionHead"
            )
        if num_layers < 0:
            raise ValueError(f"num_layers = {num_layers}; a projection head has 0 layers or more")
        self.layers = nn.Sequential()
        for i in range(num_layers):
            last = i == num_layers - 1
            width_in, width_out = input_dim if i == 0 else hidden_dim, output_dim if last else hidden_dim
            linear = nn.Linear(width_in, width_out, bias=False)
            nn.init.normal_(linear.weight, std=0.01)
            self.layers.append(linear)
            self.layers.append(GlobalBatchNorm1d(width_out, center=not last))
            if not last:
                self.layers.append(nn.ReLU(inplace=True))
        self.output_dim = output_dim if num_layers else input_dim

    def forward(self, h: Tensor) -> Tensor:
        """[B, input_dim] -> [B, output_dim]."""
        z: Tensor = self.layers(h)
        return z

    def hidden(self, h: Tensor, selector: int) -> Tensor:
        """What fine-tuning starts from (authors' `ft_proj_selector`): 0 is h, k the k-th layer after its ReLU, -1 is z.

        SimCLR v2 fine-tunes from 1, the head's first layer.
        """
        count = (len(self.layers) + 1) // 3
        if not -1 <= selector <= count:
            raise ValueError(f"selector = {selector}; this head has {count} layers: use 0 (h) to {count}, or -1 (z)")
        if selector in (-1, count):
            return self(h)  # type: ignore[no-any-return]
        hidden: Tensor = self.layers[: 3 * selector](h)
        return hidden
