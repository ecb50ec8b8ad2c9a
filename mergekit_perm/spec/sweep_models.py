"""A sweep and its claims as typed, frozen values: the section `sweep` of a run spec."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from mergekit_perm.spec.fields import (
    Calibration,
    Count,
    Found,
    Names,
    NonNegative,
    Text,
    expected,
    refused,
)
from mergekit_perm.spec.models import Section


class HeightSpec(Section):
    """Which barrier of a run; the fields mean what `mergekit_perm.report.claims.Height` says.

    Either `figure` is given, or `found_at` and `applied_at`: ``all``, one checkpoint or several.
    """

    figure: Text | None = None
    alignment: Literal["naive", "aligned"] | None = None
    found_at: Found | None = None
    applied_at: Found | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        of_matrix = self.found_at is not None or self.applied_at is not None
        if (self.figure is not None) == of_matrix:
            raise refused(
                "a barrier is a figure, or found_at and applied_at of the matrix",
                hint="write, for example, {figure: pair}, or {found_at: end, applied_at: all}",
            )
        if of_matrix and (self.found_at is None or self.applied_at is None):
            raise refused("found_at and applied_at go together")
        if self.applied_at == ("none",):
            raise refused("applied_at is where barriers are measured; 'none' is for found_at")
        return self


class BoundSpec(Section):
    """A number, or a multiple of another barrier.

    Attributes:
        times: the number, or what `of` is multiplied by.
        of: the other barrier, or None.
        run: the label of the variation that `of` is a barrier of; None is the same one.
    """

    times: NonNegative
    of: HeightSpec | None = None
    run: Text | None = None

    @model_validator(mode="after")
    def _of_what(self) -> Self:
        if self.run is not None and self.of is None:
            raise refused("'run' says whose barrier 'of' is, and there is no 'of'")
        return self


def _bound(value: Any) -> Any:
    """Let ``at_most: 0.1`` stand for ``at_most: {times: 0.1}``."""
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise expected("a number, or {times: ..., of: {figure: ...}}")
    return {"times": value}


Bound = Annotated[BoundSpec | None, BeforeValidator(_bound)]


class ClaimSpec(Section):
    """What a sweep is to show: a barrier within a bound.

    Attributes:
        text: the claim in words.
        value: the barrier.
        at_most: its bound from above: a number, or a multiple of another barrier.
        at_least: its bound from below.
        runs: the labels of the variations that it is about; None is all.
    """

    text: Text
    value: HeightSpec
    at_most: Bound = None
    at_least: Bound = None
    metric: Literal["loss", "error"] = "loss"
    split: Text = "train"
    calibration: Calibration = "none"
    runs: Names | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise refused("a claim has one bound: 'at_most' or 'at_least'")
        return self


class SweepSpec(Section):
    """Several runs of one spec.

    Attributes:
        seeds: how many sets of seeds; the seeds of trained networks are moved on for each set.
        over: by field, such as ``options.hidden``, the values that it has in turn; of several
            fields all combinations. Fields that change together are one key, as in
            ``architecture, options.depth: [[vgg, 16], [resnet_cifar, 20]]``.
        claims: what the runs are to show.
    """

    seeds: Count = 1
    over: dict[Text, Annotated[tuple[JsonValue, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    claims: tuple[ClaimSpec, ...] = ()
