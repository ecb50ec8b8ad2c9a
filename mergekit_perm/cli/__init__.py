"""The command line: a thin skin over the Python interface."""

from mergekit_perm.cli.app import app, main

__all__ = ["app", "main"]
