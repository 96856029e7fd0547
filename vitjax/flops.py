"""How much a program computes, read from its jaxpr, and how much a device can.

Matrix products and convolutions alone are counted, each multiplication and addition as one: twice the MACs
that papers often call the FLOPs of a model. Recomputation under `remat` is in the jaxpr and so is counted;
multiplications by the zeros of a dilated input (the gradient of a strided convolution) are not, nor is what no
result comes from; a loop or a call is counted whole.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

# Dense bfloat16 FLOP/s of one jax device, by whole words in its `device_kind`; the first that fits holds.
# From the vendors' data sheets. A core of TPU v2 and v3 is a device; from v4 on a chip is.
PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    ("TPU v2", 22.5e12),
    ("TPU v3", 61.5e12),
    ("TPU v4 lite", 138e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v6", 918e12),
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("GH200", 989.4e12),
    ("H200 NVL", 835.5e12),
    ("H200", 989.4e12),
    ("H100 NVL", 835.5e12),
    ("H100 PCIe", 756e12),
    ("H100", 989.4e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("A6000", 154.8e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
)


def peak(devices: Iterable[Any]) -> float | None:
    """bfloat16 FLOP/s of all `devices` together, or None if one of them is not in the table."""
    rates = [_peak_of(device.device_kind) for device in devices]
    return None if None in rates else sum(rates)


def _peak_of(device_kind: str) -> float | None:
    return next((rate for kind, rate in PEAK_FLOPS if re.search(rf"\b{kind}\b", device_kind)), None)


def count(function: Callable, *args: Any) -> float:
    """FLOPs of one call; arguments may be jax.ShapeDtypeStruct, and nothing is computed."""
    return count_jaxpr(jax.make_jaxpr(function)(*args))


def count_jaxpr(jaxpr: Any) -> float:
    """FLOPs of a jaxpr, closed or not.

    A loop whose length is not in the program counts once, and the longest branch stands for all.
    """
    return float(sum(_count_equation(eqn) for eqn in _needed(_open(jaxpr))))


def _needed(jaxpr: Any) -> Iterator[Any]:
    """The equations, last first, that a result comes from: the compiler drops the others."""
    wanted = {id(var) for var in jaxpr.outvars}
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(id(var) in wanted for var in eqn.outvars):
            wanted |= {id(var) for var in eqn.invars}
            yield eqn


def _count_equation(eqn: Any) -> float:
    name = eqn.primitive.name
    if name in _COUNTED:
        return _COUNTED[name](eqn)
    inner = [count_jaxpr(jaxpr) for jaxpr in _jaxprs(list(eqn.params.values()))]
    if name == "scan":
        return eqn.params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "shard_map":
        # The jaxpr inside is that of one device.
        return eqn.params["mesh"].size * sum(inner)
    return sum(inner)


def _count_dot(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * eqn.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)


def _count_convolution(eqn: Any) -> float:
    dims = eqn.params["dimension_numbers"]
    kernel = eqn.invars[1].aval.shape
    terms = math.prod(kernel[axis] for axis in dims.rhs_spec[1:])
    return 2 * eqn.outvars[0].aval.size * terms / math.prod(eqn.params["lhs_dilation"])


def _count_cudnn_attention(products: int) -> Callable[[Any], float]:
    """Of cuDNN's fused attention: so many products of the size of queries times keys."""

    def flops(eqn: Any) -> float:
        query, key = eqn.invars[0].aval, eqn.invars[1].aval
        length = key.shape[2 if eqn.params["layout"] == 1 else 1]  # 1: B N T H, 0: B T N H
        return 2 * products * query.size * length

    return flops


_COUNTED: dict[str, Callable[[Any], float]] = {
    "dot_general": _count_dot,
    "conv_general_dilated": _count_convolution,
    "dot_product_attention_fwd_wrapper": _count_cudnn_attention(2),
    "dot_product_attention_bwd_wrapper": _count_cudnn_attention(5),
}


def _jaxprs(x: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    if isinstance(x, (tuple, list)):
        for part in x:
            yield from _jaxprs(part)
    elif hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns"):
        yield x


def _open(jaxpr: Any) -> Any:
    """A closed jaxpr's inside, or the jaxpr itself."""
    return jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr
