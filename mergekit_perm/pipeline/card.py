"""What stands beside the weights of a merged network: config, card, and the spec it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_perm import yaml_document
from mergekit_perm.files import write_text
from mergekit_perm.report.model import LOOKED_AT, Calibrated
from mergekit_perm.report.summaries import calibration_words
from mergekit_perm.spec import RunSpec, resolved
from mergekit_perm.spec.models import MergeSpec


def write(
    folder: Path,
    recipe: MergeSpec,
    networks: Sequence[str],
    config: Mapping[str, Any],
    spec: RunSpec,
    done: Mapping[str, Any],
) -> None:
    """Write config.json, README.md and perm_merge_config.yml into `folder`.

    `done` says under ``calibrated`` what has been re-estimated in the network, if anything was.
    """
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(folder / "perm_merge_config.yml", resolved(spec))
    write_text(folder / "README.md", model_card(recipe, networks, config, spec, done))


def model_card(
    recipe: MergeSpec,
    networks: Sequence[str],
    config: Mapping[str, Any],
    spec: RunSpec,
    done: Mapping[str, Any],
) -> str:
    """Return the model card in Markdown: method, calibration, networks, loading, configuration."""
    front = yaml_document.dump({"library_name": "timm", "tags": ["perm-merge", "merge"]})
    parents = "\n".join(f"- `{name}`: {_origin(spec, name)}" for name in networks)
    aligned = "The networks were merged as they were, without alignment."
    if spec.align is not None:
        aligned = (
            f"Before merging, the neurons of every network were permuted to the reference "
            f"`{spec.align.reference}` by `{spec.align.method}`, which looks at "
            f"{LOOKED_AT[spec.looks_at]}."
        )
    return f"""---
{front}---
# {spec.name}: {recipe.name}

## Merge Method

`{recipe.method}` with {json.dumps(recipe.parameters.model_dump())}. {aligned}{_calibration(done)}

## Models Merged

{parents}

## How to Load

```python
{_loading(config)}
```

## Configuration

```yaml
{resolved(spec).rstrip()}
```
"""


def _calibration(done: Mapping[str, Any]) -> str:
    if "calibrated" not in done:
        return ""
    return f" After merging, {calibration_words(Calibrated(**done['calibrated']))}."


def _origin(spec: RunSpec, name: str) -> str:
    network = spec.networks[name]
    if network.train is None:
        return f"checkpoint `{network.checkpoint}`"
    return f"`{spec.architecture_of(name)}` trained from seed {network.train.seed}"


def _loading(config: Mapping[str, Any]) -> str:
    """Return Python that loads the network, run in its folder."""
    if "pretrained_cfg" not in config:  # timm cannot build an architecture of the user's own
        return (
            'from safetensors.torch import load_file\nstate_dict = load_file("model.safetensors")'
        )
    lines = ["import timm"]
    if config["architecture"] in ("mlp", "vgg", "resnet_cifar"):
        lines.append("import mergekit_perm.networks  # registers the architecture")
    return "\n".join(
        [*lines, 'model = timm.create_model("local-dir:.", pretrained=True)  # this folder']
    )
