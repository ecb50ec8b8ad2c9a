"""The model card of a merged network: recipe, parents, barriers, how to load, and the spec."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mergekit_perm import yaml_document
from mergekit_perm.files import write_text
from mergekit_perm.pipeline import assemble
from mergekit_perm.pipeline.loading import loading
from mergekit_perm.pipeline.workshop import Result, Workshop, file_named
from mergekit_perm.report import Report, compare, to_markdown
from mergekit_perm.report.model import LOOKED_AT
from mergekit_perm.report.summaries import calibration_words
from mergekit_perm.spec import RunSpec, resolved
from mergekit_perm.spec.fields import PRUNED
from mergekit_perm.spec.merge_models import MergeSpec
from mergekit_perm.spec.sequences import end_of, split_name

_HUB = "hf-hub:"


def write_card(recipe: MergeSpec, shop: Workshop) -> Result:
    """Write README.md beside a merged network, when all that it tells of is known."""
    inputs, spec = shop.inputs, shop.inputs.spec
    names = spec.merged_networks(recipe)
    hashes = {name: _sha256(name, shop) for name in names}
    report = assemble.report(inputs, shop.results, shop.folder)
    text = model_card(recipe, hashes, inputs.outline.config, spec, report)
    write_text(shop.folder.path / card_file(recipe), text)
    return {}


def _sha256(name: str, shop: Workshop) -> str:
    network, step = shop.inputs.spec.checkpoint_named(name)
    stage = "prune" if step is not None and step.startswith(PRUNED) else "networks"
    return shop.folder.sha256(f"{stage}/{network}", file_named(shop.inputs.spec, name))


def card_file(recipe: MergeSpec) -> str:
    """Return where the card of a merged network stands in the folder of a run."""
    return f"merged/{recipe.name}/README.md"


def model_card(
    recipe: MergeSpec,
    hashes: Mapping[str, str],
    config: Mapping[str, Any],
    spec: RunSpec,
    report: Report,
) -> str:
    """Return the model card in Markdown.

    Args:
        recipe: how the networks were merged.
        hashes: by network that was merged the SHA-256 of its file in the folder of the run.
        config: of the merged network, as timm reads it.
        spec: of the run.
        report: what was measured.
    """
    front = {"library_name": "timm", "tags": ["perm-merge", "merge"]}
    if hub := _on_hub(spec, list(hashes)):
        front["base_model"] = hub
    parents = "\n".join(
        f"- `{name}`: {_origin(spec, name)}, SHA-256 `{sha256}`" for name, sha256 in hashes.items()
    )
    lines = "\n".join(loading(config))
    return f"""---
{yaml_document.dump(front)}---
# {spec.name}: {recipe.name}

## Merge Method

{_method(recipe)} {_aligned(spec, report)}{_calibration(recipe, report)}

## Models Merged

{parents}

## How to Load

```python
{lines}
```
{_measured(report)}
## Configuration

```yaml
{resolved(spec).rstrip()}
```
"""


def _method(recipe: MergeSpec) -> str:
    base = "" if recipe.base_model is None else f", base model `{recipe.base_model}`"
    return f"`{recipe.method}` with {json.dumps(recipe.parameters.model_dump())}{base}."


def _on_hub(spec: RunSpec, names: Sequence[str]) -> list[str]:
    """Return the repositories that networks came from."""
    networks = dict.fromkeys(split_name(name)[0] for name in names)
    found = (spec.networks[name].checkpoint or "" for name in networks)
    return [each.removeprefix(_HUB).partition("@")[0] for each in found if each.startswith(_HUB)]


def _aligned(spec: RunSpec, report: Report) -> str:
    if spec.align is None or report.alignment is None:
        return "The networks were merged as they were, without alignment."
    proof = report.alignment.permutations
    proven = "proven" if proof.verified else "trusted, not proven"
    return (
        f"Before merging, the neurons of every network were permuted to the reference "
        f"`{spec.align.reference}` by `{spec.align.method}`, which looks at "
        f"{LOOKED_AT[spec.looks_at]}; the permutation spec, {proven}, covers "
        f"{100 * proof.coverage:.4g} % of the parameters."
    )


def _measured(report: Report) -> str:
    """Return the section of barriers and metrics; nothing where nothing was measured."""
    found = compare([report])
    return f"\n## Barriers\n\n{to_markdown(found)}" if found.rows else ""


def _calibration(recipe: MergeSpec, report: Report) -> str:
    done = report.merged[recipe.name].calibrated
    return "" if done is None else f" After merging, {calibration_words(done)}."


def _origin(spec: RunSpec, name: str) -> str:
    own, step = spec.checkpoint_named(name)
    network = spec.networks[own]
    if network.checkpoints is not None:
        file = spec.checkpoint_file(own, step or end_of(spec.steps_of(own)))
        return f"checkpoint `{file.name}` of `{network.checkpoints}`"
    if network.train is None:
        return f"checkpoint `{network.checkpoint}`"
    trained = f"`{spec.architecture_of(own)}` trained from seed {network.train.seed}"
    if step is None:
        return trained
    level = step.removeprefix(PRUNED)
    return f"{trained}, at {'epoch' if level == step else 'level of pruning'} {level}"
