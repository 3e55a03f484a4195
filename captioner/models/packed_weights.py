"""Linear layers with their weights laid out for generation: few rows at a time, the same weights at every step.

``torch.nn.Linear`` holds its matrix as [outputs, inputs], which the matrix library turns round at every product. With a
handful of rows that costs as much as the product itself. Here the matrix is cut once into panels of some outputs each,
[panels, inputs, panel]: a panel is read from end to end, where the rows of a wide matrix lie far apart in memory.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Affine = Callable[[Tensor], Tensor]
"""Rows [rows, inputs] to panels of outputs [panels, rows, panel]."""

PANEL = 256
"""Outputs of a panel, if the layer's number is a multiple."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
"""Name of a precision -> type of the states between the products."""
SMALLEST = 1e-30
"""Rows of nothing but zeros are scaled as if this were their largest number."""


class PackedLinear:
    """A linear layer in fp32 or bf16."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, panel: int) -> None:
        """Pack ``weight`` [outputs, inputs] and ``bias`` [outputs]."""
        self.weight = weight.to(dtype).unflatten(0, (-1, panel)).transpose(1, 2).contiguous()
        self.bias = bias.to(dtype, copy=True).view(-1, 1, panel)

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, rows.expand(len(self.weight), -1, -1), self.weight)


class Int8Linear:
    """A linear layer whose product is made of 8-bit integers, scaled by row and by output.

    Weights are rounded once, rows when they come (dynamic quantisation; Dettmers et al. 2022,
    https://arxiv.org/abs/2208.07339, section 2.1, vector-wise). A row's scale is its own, so other rows of the batch
    change nothing.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, panel: int) -> None:
        """Pack ``weight`` [outputs, inputs] and ``bias`` [outputs]; rows come and go as ``dtype``."""
        self.panel = panel
        weight = weight.float()
        largest = weight.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST)
        self.weight = (weight * (127 / largest)).round().to(torch.int8).t()
        self.scale = (largest[:, 0] / 127).to(dtype)
        self.bias = bias.to(dtype, copy=True)

    def __call__(self, rows: Tensor) -> Tensor:
        largest = rows.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST)
        rounded = (rows * (127 / largest)).round_().to(torch.int8)
        products = torch._int_mm(rounded, self.weight)  # [rows, outputs], exact in 32 bits
        outputs = torch.addcmul(self.bias, products * (largest / 127), self.scale)
        return outputs.unflatten(1, (-1, self.panel)).transpose(0, 1)


class PackedNorm:
    """A layer norm in the type of a precision's states."""

    def __init__(self, norm: nn.LayerNorm, precision: str) -> None:
        self.shape, self.eps = norm.normalized_shape, norm.eps
        dtype = PRECISIONS[precision]
        self.weight, self.bias = (tensor.detach().to(dtype, copy=True) for tensor in (norm.weight, norm.bias))

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.layer_norm(rows, self.shape, self.weight, self.bias, self.eps)


def pack(layer: nn.Linear, precision: str, *, panel: int = PANEL, pad: int = 0) -> Affine:
    """Pack a linear layer.

    Args:
        layer: the layer; its weights are copied.
        precision: fp32, bf16 or int8.
        panel: outputs of a panel; one panel of all of them if their number is no multiple.
        pad: outputs to add that are minus infinity.
    """
    weight = layer.weight.detach()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    if pad:
        weight = torch.cat([weight, weight.new_zeros(pad, weight.shape[1])])
        bias = torch.cat([bias, bias.new_full((pad,), -torch.inf)])
    kind = Int8Linear if precision == "int8" else PackedLinear
    return kind(weight, bias, PRECISIONS[precision], _panel(len(weight), panel))


def _panel(outputs: int, wanted: int = PANEL) -> int:
    return outputs if outputs % wanted else wanted


def as_panels(rows: Tensor) -> Tensor:
    """The panels [panels, rows, panel] of rows [rows, outputs], in the same memory."""
    return rows.unflatten(1, (-1, _panel(rows.shape[1]))).transpose(0, 1)


def side_by_side(panels: Tensor) -> Tensor:
    """Rows [rows, outputs] of panels [panels, rows, panel]."""
    return panels.transpose(0, 1).flatten(1)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware, where it is several times as fast as fp32; elsewhere slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_precision(wanted: str, device: torch.device) -> str:
    """The precision that ``auto`` means on a device; any other is itself."""
    if wanted != "auto":
        return wanted
    return "bf16" if multiplies_bf16(device) else "fp32"
