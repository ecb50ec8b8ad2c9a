"""Every bad run spec in tests/golden/spec, and the exact message beside it.

UPDATE_GOLDEN=1 writes the messages anew; read the difference before keeping it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mergekit_perm.errors import SpecError
from mergekit_perm.spec import loads

FOLDER = Path(__file__).parents[1] / "golden" / "spec"
BAD = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_message(path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        loads(path.read_text(encoding="utf-8"), file=path.name, folder=FOLDER)
    message = str(caught.value).replace(str(FOLDER), "FOLDER") + "\n"
    expected = path.with_suffix(".txt")
    if os.environ.get("UPDATE_GOLDEN") == "1":
        expected.write_text(message, encoding="utf-8")
    assert message == expected.read_text(encoding="utf-8")


def test_every_message_has_its_spec() -> None:
    assert len(BAD) > 60
    assert {path.stem for path in FOLDER.glob("*.txt")} == {path.stem for path in BAD}


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_no_message_shows_the_machinery(path: Path) -> None:
    message = path.with_suffix(".txt").read_text(encoding="utf-8")
    assert not any(
        word in message for word in ("pydantic", "Input should", "[key]", "Tuple", "Traceback")
    )
    assert not any(f"<{tag}>" in message for tag in ("text", "number", "list", "mapping", "bool"))
    assert message.endswith("; nothing was run.\n")
