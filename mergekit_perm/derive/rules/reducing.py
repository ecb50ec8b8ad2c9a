"""Sums, means, extremes and norms: symmetric functions along axes."""

from __future__ import annotations

from mergekit_perm.derive.labels import Labels
from mergekit_perm.derive.primitives import combine, reduce
from mergekit_perm.derive.rules.table import Call, NoRule, rule


@rule("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "logsumexp",
      "any", "all", "prod", "nansum", "nanmean", "count_nonzero", "var_mean", "std_mean",
      "aminmax")  # fmt: skip
def symmetric(call: Call) -> object:
    """A symmetric function along some axes, or all of them."""
    value = call.labels()[0]
    dims = call.get("dim")
    if dims is None or dims == []:
        dims = range(len(value.axes))
    dims = [dims] if isinstance(dims, int) else list(dims)
    several = isinstance(call.shapes, list)  # as mean and variance
    shape = call.shapes[0] if several else call.shape
    result = reduce(call.facts, value, dims, keep_axes=len(shape) == len(value.axes))
    return [result, result] if several else result


@rule("max", "min", "median")
def extreme(call: Call) -> object:
    """The largest along one axis, with its place; or the largest of all; or of two tensors."""
    value, dim = call["self"], call.get("dim")
    if len(call.labels()) > 1:
        return combine(call.facts, call.shape, call.labels())
    if dim is None:
        return reduce(call.facts, value, range(len(value.axes)))
    if 1 in call.wanted and set(value.digits(dim % len(value.axes))) & value.mapped:
        raise NoRule  # the place says where the largest one stood
    result = reduce(call.facts, value, [dim], keep_axes=bool(call["keepdim"]))
    return [result, result]


@rule("cosine_similarity")
def cosine_similarity(call: Call) -> Labels:
    """Sums of products along an axis."""
    one, other = call.labels()
    shape = tuple(max(a, b) for a, b in zip(one.shape, other.shape, strict=True))
    product = combine(call.facts, shape, [one, other])
    return reduce(call.facts, product, [call["dim"]])
