"""Folds a batch norm into the convolution before it: what TorchScript's freezing does for float32."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecompile.frontend.capture.graphs import attribute

__all__ = ["Norm", "norm_after"]


@dataclass(frozen=True, kw_only=True)
class Norm:
    """(x - mean) / sqrt(variance + eps) * weight + bias, by channel."""

    result: fx.Node
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    mean: torch.Tensor
    variance: torch.Tensor
    eps: float

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        return self.weight, self.bias, self.mean, self.variance

    def folded(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The convolution's weights (out, ...) and bias with the norm in them."""
        factor = (self.variance.double() + self.eps).rsqrt()
        if self.weight is not None:
            factor = factor * self.weight.double()
        before = torch.zeros_like(factor) if bias is None else bias.double()
        after = (before - self.mean.double()) * factor
        if self.bias is not None:
            after = after + self.bias.double()
        return (weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))).float(), after.float()


def norm_after(node: fx.Node, root: fx.GraphModule) -> Norm | None:
    """The batch norm that alone reads the node, and reads nothing else but constants; None without one."""
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_function":
        return None
    (norm,) = users
    aten, args = torch.ops.aten, norm.args
    if norm.kwargs or args[0] is not node:
        return None
    if norm.target is aten._native_batch_norm_legit_no_training.default:
        results, eps = list(norm.users), args[6]
        if len(results) != 1 or results[0].target is not operator.getitem or results[0].args[1] != 0:
            return None
        result = results[0]
    elif norm.target is aten.batch_norm.default and args[5] is False:
        result, eps = norm, args[7]
    else:
        return None
    values = [_constant(item, root) for item in args[1:5]]
    missing = [given is not None and value is None for given, value in zip(args[1:5], values, strict=True)]
    if any(missing) or values[2] is None or values[3] is None or not isinstance(eps, float):
        return None
    return Norm(result=result, weight=values[0], bias=values[1], mean=values[2], variance=values[3], eps=eps)


def _constant(node: Any, root: fx.GraphModule) -> torch.Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = attribute(root, str(node.target))
    return value.detach() if isinstance(value, torch.Tensor) and value.is_floating_point() else None
