"""Operations on one coordinate at a time: whatever stands at the same place moves alike."""

from __future__ import annotations

from mergekit_perm.derive.labels import Labels
from mergekit_perm.derive.primitives import broadcast, combine, constant, contract
from mergekit_perm.derive.rules.table import Call, rule

# fmt: off
UNARY = frozenset(
    {
        "abs", "acos", "alias", "alpha_dropout", "angle", "asin", "atan", "bernoulli",
        "bitwise_not", "ceil", "celu", "clone", "_conj", "conj", "conj_physical", "contiguous",
        "cos", "cosh", "detach", "dropout", "elu", "erf", "erfc", "erfinv", "exp", "exp2", "expm1",
        "feature_alpha_dropout", "feature_dropout", "floor", "frac", "gelu", "hardshrink",
        "hardsigmoid", "hardswish", "hardtanh", "imag", "isfinite", "isinf", "isnan", "leaky_relu",
        "lift_fresh_copy", "log", "log10", "log1p", "log2", "log_sigmoid", "logical_not", "logit",
        "mish", "nan_to_num", "neg", "positive", "real", "reciprocal", "relu", "relu6",
        "resolve_conj", "round", "rrelu", "rsqrt", "selu", "sgn", "sigmoid", "sign", "silu", "sin",
        "sinh", "softplus", "softshrink", "special_erf", "special_expit", "sqrt", "square", "tan",
        "tanh", "threshold", "to", "_to_copy", "trunc", "type_as",
    }
)

BROADCASTING = frozenset(
    {
        "add", "addcdiv", "addcmul", "atan2", "bitwise_and", "bitwise_or", "bitwise_xor",
        "clamp", "clamp_max", "clamp_min", "complex", "copysign", "div", "eq", "fmax", "fmin",
        "fmod", "floor_divide", "ge", "gt", "hypot", "le", "lerp", "logaddexp", "logical_and",
        "logical_or", "logical_xor", "lt", "masked_fill", "maximum", "minimum", "mul", "ne",
        "polar", "pow", "remainder", "rsub", "sub", "true_divide", "where", "xlogy",
    }
)

# fmt: on


@rule(*UNARY)
def unary(call: Call) -> Labels:
    """A function of each coordinate: nothing is stated."""
    return call.labels()[0]


@rule(*BROADCASTING)
def broadcasting(call: Call) -> Labels:
    """A function of the coordinates at one place of several tensors."""
    return combine(call.facts, call.shape, call.labels())


@rule("copy")
def copy(call: Call) -> Labels:
    """The values of another tensor."""
    return broadcast(call["src"], call.shape)


@rule("prelu")
def prelu(call: Call) -> Labels:
    """A slope for each channel, or one for all."""
    value, slopes = call["self"], call["weight"]
    letters = "abcdefgh"[: len(value.axes)]
    return contract(call.facts, [(value, letters), (slopes, letters[1:2] or letters)], letters)


@rule(
    "zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like",
    "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor", "zero", "fill",
)  # fmt: skip
def filled(call: Call) -> Labels:
    """A tensor with one value everywhere."""
    return constant(call.shape)
