"""The page of a run in tests: reports that are alike have theirs drawn once.

Drawing figures takes most of the time of a small run, and most runs of tests end in a report that
differs from that of an earlier test by its figures alone. What a report has, of what kind, and how
many of it (none, one or several) decides whether its page is drawn.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from mergekit_perm.files import write_text
from mergekit_perm.report.html import save_html
from mergekit_perm.report.model import Report

ALIKE = "<!doctype html>\n<title>The page of a report such as this one was drawn before.</title>\n"

# What changes the title of a page, or a table of its own, and no more.
APART = ("name", "provenance")

_drawn: set[str] = set()


def save_once(report: Report, path: Path) -> None:
    """Write the page of `report`, or a few words where that of one alike was drawn before."""
    told = {key: value for key, value in report.to_json().items() if key not in APART}
    form = json.dumps(form_of(told), sort_keys=True)
    if form in _drawn:
        write_text(path, ALIKE)
    else:
        save_html(report, path)
        _drawn.add(form)


def form_of(value: Any) -> Any:
    """Return `value` with kinds of numbers in place of numbers, and lists as what is in them."""
    match value:
        case dict():
            return {key: form_of(each) for key, each in value.items()}
        case list():
            forms = [form_of(each) for each in value]
            kinds = {json.dumps(form, sort_keys=True): form for form in forms}
            return [min(len(forms), 2), list(kinds.values())]
        case str():
            return re.sub(r"[0-9a-f]{12,}|-?[0-9]+([.][0-9]+)?(e-?[0-9]+)?", "#", value)
        case bool() | None:
            return value
        case int() | float():
            return "finite" if math.isfinite(value) else str(value)
    raise TypeError(f"JSON has no {type(value).__name__}")
