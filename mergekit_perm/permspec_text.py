"""Permutation specs as YAML: reading with every problem placed, and writing.

    format: perm-merge/permspec@1
    architecture: vit_tiny_patch16_224
    options: {}
    groups:
      stream: 192
      blocks.{i:0..11}.heads: 3
      blocks.{i:0..11}.qk: {size: 64, within: "blocks.{i}.heads"}
    axes:
      pos_embed: [1, 197, stream]
      blocks.{i:0..11}.attn.proj.weight: [stream, "blocks.{i}.vo"]
    fixed:
      head.weight: "axis 0: output of the network"
    proof: {date: 2026-11-24, coverage: 0.9998, difference: 1.3e-15, sha256: ...}

Expressions with `{` or `[` are quoted, as YAML demands inside a list. `proof` is what
`perm-merge permspec verify --record` writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mergekit_perm import yaml_document
from mergekit_perm.axes import Axis, names
from mergekit_perm.axis_size import size
from mergekit_perm.axis_text import format_axis, is_name, parse
from mergekit_perm.errors import PermutationSpecError, SpecError, suggest
from mergekit_perm.folding import folded, starred
from mergekit_perm.groups import Group, Groups
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.templates import expansions, substitute
from mergekit_perm.yaml_document import Document, Problem

FORMAT = "perm-merge/permspec@1"
_LONGEST_KEY = 1000
_KEYS = ("format", "architecture", "options", "groups", "axes", "fixed", "proof")


def load(path: Path) -> PermutationSpec:
    """Read the permutation spec in file `path`; see `PermutationSpec.load`."""
    try:
        return _from_document(yaml_document.read_file(path))
    except PermutationSpecError:
        raise
    except SpecError as error:
        raise PermutationSpecError(str(error)) from error


def loads(text: str, *, file: str = "<string>") -> PermutationSpec:
    """Read the permutation spec in `text`; `file` is its name in messages."""
    try:
        return _from_document(yaml_document.read(text, file=file))
    except PermutationSpecError:
        raise
    except SpecError as error:
        raise PermutationSpecError(str(error)) from error


def dumps(spec: PermutationSpec) -> str:
    """Return `spec` as YAML text for people: what repeats is one entry, as in `folding`.

    The tensors of a bound spec come in the order of the network, and `module.*` stands for all of
    a module's tensors.
    """
    lines = [f"format: {FORMAT}"]
    if spec.architecture is not None:
        lines.append(f"architecture: {_flow(spec.architecture)}")
    lines.append(f"options: {_flow(dict(spec.options))}")
    lines.append("groups:" if spec.groups else "groups: {}")
    lines += [_line(key, entry) for key, entry in _group_entries(spec)]
    lines.append("axes:" if spec.axes else "axes: {}")
    lines += [_line(key, entry) for key, entry in _axis_entries(spec)]
    if spec.fixed:
        lines.append("fixed:")
        lines += [_line(key, reason) for key, reason in _reasons(spec)]
    if spec.proof:
        lines.append(f"proof: {_flow(dict(spec.proof))}")
    return "\n".join(lines) + "\n"


def with_proof(text: str, proof: Mapping[str, Any]) -> str:
    """Return the YAML `text` of a spec with `proof` in place of the one it has; the rest stays."""
    kept = []
    inside = False
    for line in text.splitlines():
        inside = line.startswith("proof:") or (inside and line[:1] in (" ", ""))
        if not inside:
            kept.append(line)
    return "\n".join([*kept, f"proof: {_flow(dict(proof))}"]) + "\n"


def _group_entries(spec: PermutationSpec) -> Iterator[tuple[str, str]]:
    rows = {
        group.name: (str(group.size), *([group.within] if group.within else []))
        for group in spec.groups.values()
    }
    for key, (count, *within) in folded(rows).items():
        yield key, _flow({"size": int(count), "within": within[0]}) if within else count


def _axis_entries(spec: PermutationSpec) -> Iterator[tuple[str, str]]:
    shapes = spec.shapes or {}
    places = {name: place for place, name in enumerate(shapes)}
    ordered = sorted(spec.axes, key=lambda name: places.get(name, len(places)))
    rows = {name: tuple(map(format_axis, spec.axes[name])) for name in ordered}
    for key, row in folded(starred(rows, shapes)).items():
        yield key, _flow([int(cell) if cell.isdecimal() else cell for cell in row])


def _reasons(spec: PermutationSpec) -> Iterator[tuple[str, str]]:
    known = {repr(reason): reason for reason in spec.fixed.values()}
    rows = {name: (repr(reason),) for name, reason in spec.fixed.items()}
    for key, (text,) in folded(starred(rows, spec.shapes or {}), constant=True).items():
        yield key, _flow(known[text])


def _line(name: str, entry: str) -> str:
    # Templates need no quotes outside braces; YAML takes a long key only after a question mark.
    key = yaml_document.dump({"_": name}).removeprefix("_: ").removesuffix("\n")
    key = _flow(name) if "\n" in key else key
    return f"  {key}: {entry}" if len(key) <= _LONGEST_KEY else f"  ? {key}\n  : {entry}"


def _flow(value: Any) -> str:
    # Inside a mapping in braces, so that lists of mappings stay on the line as well.
    text = yaml_document.dump({"_": value}, flow=True)
    return text.removeprefix("{_: ").removesuffix("}\n")


class _Reader:
    """Turns one document into a spec, collecting every problem on the way."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.groups: dict[str, Group] = {}
        self.axes: dict[str, tuple[Axis, ...]] = {}

    def problem(self, path: Iterable[str | int], message: str, *, key: bool = False) -> None:
        self.problems.append(Problem(path=tuple(path), message=message, hint=None, key=key))

    def section(self, name: str) -> dict[str, Any]:
        """Return the mapping under `name`, empty when it is missing or of another type."""
        value = self.document.data.get(name)
        if isinstance(value, dict):
            return value
        if value is not None or name in ("groups", "axes"):
            found = "nothing" if value is None else repr(value)
            self.problem([name], f"expected a mapping, found {found}")
        return {}

    def read(self) -> PermutationSpec:
        if not isinstance(self.document.data, dict):
            self.problem([], "expected a mapping with the keys format, groups and axes")
            self.finish()
        self.head()
        self.read_groups()
        groups = self.checked_groups()
        self.read_axes()
        self.check_axes(groups)
        options, fixed, proof = map(self.section, ("options", "fixed", "proof"))
        self.finish()
        return PermutationSpec(
            groups=groups,
            axes=self.axes,
            architecture=self.document.data.get("architecture"),
            options=options,
            fixed=fixed,
            proof=proof,
        )

    def head(self) -> None:
        for key in self.document.data:
            if key not in _KEYS:
                self.problem([key], f"unknown key '{key}'{suggest(str(key), _KEYS)}", key=True)
        found = self.document.data.get("format")
        if found != FORMAT:
            self.problem(["format"], f"expected '{FORMAT}', found {found!r}")
        architecture = self.document.data.get("architecture")
        if not isinstance(architecture, str | None):
            self.problem(["architecture"], f"expected a name, found {architecture!r}")

    def read_groups(self) -> None:
        for key, entry in self.section("groups").items():
            path = ["groups", key]
            try:
                for name, indices in expansions(key):
                    group = self.group(path, name, entry, indices)
                    if group is not None and name in self.groups:
                        self.problem(path, f"group '{name}' is defined twice", key=True)
                    elif group is not None:
                        self.groups[name] = group
            except PermutationSpecError as error:
                self.problem(path, str(error), key=True)

    def group(
        self, path: list[str], name: str, entry: Any, indices: dict[str, int]
    ) -> Group | None:
        if not is_name(name):
            self.problem(
                path,
                f"'{name}' is no name for a group: names have letters, digits, '_' and '.' only",
                key=True,
            )
            return None
        described = entry if isinstance(entry, dict) else {"size": entry}
        for key in described:
            if key not in ("size", "within"):
                hint = suggest(str(key), ("size", "within"))
                self.problem([*path, key], f"unknown key '{key}'{hint}", key=True)
        count, within = described.get("size"), described.get("within")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            self.problem(path, f"expected a size of at least 1, found {count!r}")
            return None
        if not isinstance(within, str | None):
            self.problem([*path, "within"], f"expected the name of a group, found {within!r}")
            return None
        return Group(name, count, None if within is None else substitute(within, indices))

    def checked_groups(self) -> Groups:
        """Return the groups; none of them when one cannot be used."""
        good: dict[str, Group] = {}
        for key in self.section("groups") if not self.problems else ():
            for name, _ in expansions(key):
                within = self.groups[name].within
                if within is not None and within not in self.groups:
                    hint = suggest(within, self.groups)
                    self.problem(["groups", key, "within"], f"no group '{within}'{hint}")
                good[name] = self.groups[name]
        try:
            return Groups({} if self.problems else good)
        except PermutationSpecError as error:
            self.problem(["groups"], str(error), key=True)
            return Groups({})

    def read_axes(self) -> None:
        for key, row in self.section("axes").items():
            path = ["axes", key]
            if not isinstance(row, list) or not all(
                isinstance(cell, str | int) and not isinstance(cell, bool) for cell in row
            ):
                self.problem(path, f"expected a list with one expression per axis, found {row!r}")
                continue
            try:
                for name, indices in expansions(key):
                    if name in self.axes:
                        self.problem(path, f"tensor '{name}' is described twice", key=True)
                    self.axes[name] = tuple(parse(substitute(str(cell), indices)) for cell in row)
            except PermutationSpecError as error:
                self.problem(path, str(error))

    def check_axes(self, groups: Groups) -> None:
        """Check the groups that expressions name; needs groups and axes that could be read."""
        if self.problems:
            return
        for key in self.section("axes"):
            reported: set[str] = set()
            for name, _ in expansions(key):
                for place, axis in enumerate(self.axes[name]):
                    for message in _expression_problems(axis, groups):
                        if message not in reported:
                            reported.add(message)
                            self.problem(["axes", key, place], message)

    def finish(self) -> None:
        if self.problems:
            count = len(self.problems)
            footer = f"{count} problem{'s' * (count > 1)} in {self.document.file}"
            raise PermutationSpecError(
                yaml_document.render(self.document, self.problems, footer=footer)
            )


def _expression_problems(axis: Axis, groups: Groups) -> list[str]:
    unknown = sorted(name for name in names(axis) if name not in groups)
    if unknown:
        return [f"no group '{name}'{suggest(name, groups)}" for name in unknown]
    try:
        if axis != parse("_"):
            size(axis, groups)
    except PermutationSpecError as error:
        return [str(error)]
    return []


def _from_document(document: Document) -> PermutationSpec:
    return _Reader(document).read()
