"""The operations that all of a network is made of, on labels: what each states about elements.

`contract` covers everything elementwise, every matrix product, convolution and attention: it lines
axes up by letters, lets what stands at the same letter move alike, and sums some letters away. The
others regroup, choose or join coordinates. Each function takes the facts of the network, which it
adds to, and returns the labels of the result.
"""

from mergekit_perm.derive.primitives.concatenating import concatenate
from mergekit_perm.derive.primitives.contracting import combine, contract, normalise, reduce
from mergekit_perm.derive.primitives.fixing import (
    broadcast,
    constant,
    frozen,
    opened,
    pinned,
    resized,
)
from mergekit_perm.derive.primitives.joining import join
from mergekit_perm.derive.primitives.regrouping import flattened, refined, reshape
from mergekit_perm.derive.primitives.selecting import select

__all__ = [
    "broadcast",
    "combine",
    "concatenate",
    "constant",
    "contract",
    "flattened",
    "frozen",
    "join",
    "normalise",
    "opened",
    "pinned",
    "reduce",
    "refined",
    "reshape",
    "resized",
    "select",
]
