"""The sections `merge` and `missing` of a run spec as typed, frozen values."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mergekit_perm.errors import MergeError
from mergekit_perm.spec.fields import Calibration, Dtype, MergeMethod, Name, Names, Text, refused
from mergekit_perm.spec.models import Section
from mergekit_perm.spec.recipes import filled, recipe_table


class MergeParameters(Section, extra="allow"):
    """Parameters of a recipe, under mergekit's names; `merge_checks` checks them."""

    __pydantic_extra__: dict[str, Any]


class MergeSpec(Section):
    """One merged network.

    Attributes:
        name: of the result; a folder is called so.
        method: the recipe, under mergekit's name.
        base_model: the network that task vectors start from, or slerp's t = 0; None is none.
        networks: which to merge, or checkpoints of sequences as in ``a@5``; None is all networks.
            The base model may be among them or not.
        parameters: of the recipe, with every default.
        calibrate: what is re-estimated in the merged network, for good; see
            `mergekit_perm.evaluate.calibrate`. The targets of ``repair`` are those of the networks
            as they are merged, with the weights of ``linear``, and equal ones of other recipes.
        calibrate_on: the split on which the temperature is found; None is the first that is
            evaluated and not trained on, see `RunSpec.temperature_split`.
        out_dtype: of the weights that are written; None is that of the first network. Sums are
            taken in float64, of networks in half precision as well.
    """

    name: Name
    method: MergeMethod
    base_model: Text | None = None
    networks: Names | None = None
    parameters: Annotated[MergeParameters, Field(validate_default=True)] = MergeParameters()

    calibrate: Calibration = "none"
    calibrate_on: Text | None = None
    out_dtype: Dtype | None = None

    @field_validator("parameters")
    @classmethod
    def _with_defaults(cls, parameters: MergeParameters, info: ValidationInfo) -> MergeParameters:
        method = info.data.get("method")
        if method is None:
            return parameters
        try:
            table = recipe_table(method)
        except MergeError:  # `merge_checks` says so
            return parameters
        return MergeParameters.model_validate(filled(parameters.model_dump(), table))

    @model_validator(mode="after")
    def _split_of_a_temperature(self) -> Self:
        if self.calibrate_on is not None and "temperature" not in self.calibrate:
            raise refused(
                "'calibrate_on' is where a temperature is found, and 'calibrate' has none",
                hint="remove it, or write calibrate: temperature",
            )
        return self


class MissingSpec(Section):
    """What becomes of tensors that a network lacks, or has in another shape; see `merged_networks`.

    Attributes:
        filter: part of a tensor's name, or ``glob:`` or ``regex:``; None is every tensor.
        policy: ``error`` refuses the network; ``union`` takes the mean of the networks that have
            the tensor; ``keep`` takes it from one network as it is; ``intersection`` leaves it out
            of merged networks.
        network: whose tensor is kept.
    """

    filter: Text | None = None
    policy: Literal["error", "intersection", "union", "keep"]
    network: Text | None = None

    @model_validator(mode="after")
    def _whose(self) -> Self:
        if (self.policy == "keep") != (self.network is not None):
            raise refused(
                "'network' says whose tensor is kept, and goes with policy: keep",
                hint="write, for example, {filter: head, policy: keep, network: a}",
            )
        return self


def policies(value: Any) -> Any:
    """Return `missing` as a list: ``union`` stands for ``[{policy: union}]``."""
    if isinstance(value, str):
        return [{"policy": value}]
    return [value] if isinstance(value, dict) else value


Missing = Annotated[tuple[MissingSpec, ...], Field(strict=False), BeforeValidator(policies)]
