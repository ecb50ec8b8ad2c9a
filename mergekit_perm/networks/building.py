"""Building a module from the name of an architecture and its options."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import timm
import torch
from timm.models import is_model, model_entrypoint
from torch import nn

from mergekit_perm.errors import NetworkError, suggest
from mergekit_perm.networks import mlp, resnet_cifar, vgg  # noqa: F401  registers them in timm
from mergekit_perm.networks.names import SOURCES, is_function, without_weight_options
from mergekit_perm.networks.without_weights import without_weights
from mergekit_perm.python_path import code_sha256, find, is_python_path

_UNEXPECTED = re.compile(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'")


def build(
    architecture: str, options: Mapping[str, Any] = {}, *, seed: int | None = None
) -> nn.Module:
    """Return a new module of `architecture`, on the CPU and in evaluation mode.

    Weights are random unless `options` say ``pretrained: true``.

    Args:
        architecture: a timm name (``resnet18``, ``resnet18.a1_in1k``, ``hf-hub:org/id``,
            ``local-dir:PATH``), a built-in (``mlp``, ``vgg``, ``resnet_cifar``), or
            ``package.module:function``, which is called with the options.
        options: keyword arguments of `timm.create_model`, or of the function.
        seed: where the initial weights come from; the global random state is left as it was.
            None draws them from the global random state.

    Raises:
        NetworkError: for an unknown name, an option that is refused, or a build that fails.
    """
    return _built(architecture, options, seed, lambda make: make())


def skeleton(architecture: str, options: Mapping[str, Any] = {}) -> nn.Module:
    """Return what `build` builds without memory for its weights, which are all zero.

    Options that fetch weights are left out. Errors as `build`.
    """
    return _built(architecture, without_weight_options(options), 0, without_weights)


def _built(
    architecture: str,
    options: Mapping[str, Any],
    seed: int | None,
    building: Callable[[Callable[[], nn.Module]], nn.Module],
) -> nn.Module:
    make = _maker(architecture)
    try:
        with _seeded(seed):
            module = building(lambda: make(**options))
    except NetworkError:
        raise
    except TypeError as cause:
        raise refusal(architecture, options, cause, [make]) from cause
    except Exception as cause:
        raise _failure(architecture, options, cause) from cause
    if not isinstance(module, nn.Module):
        raise NetworkError(
            f"'{architecture}' returned {type(module).__name__}, not a torch.nn.Module"
        )
    return module.eval()


def code_of(architecture: str, module: nn.Module) -> str:
    """Return a hash of the code that `architecture` is, when it is a Python path; else "".

    Names of timm and the built-ins stand for their code; a user's own function may change under
    the same name. The files of the function and of every class in the module count.
    """
    if not is_python_path(architecture):
        return ""
    classes = {type(part).__module__ for part in module.modules()}
    return code_sha256({architecture.partition(":")[0], *classes})


def is_timms(architecture: str) -> bool:
    """Return whether timm itself, or this package, has what it builds by this name.

    Others may register networks in timm, whose code may change under one name.
    """
    home = model_entrypoint(architecture.partition(".")[0]).__module__
    return home.partition(".")[0] in ("timm", "mergekit_perm")


def refusal(
    architecture: str,
    options: Mapping[str, Any],
    cause: TypeError,
    callables: Sequence[Callable[..., Any]] = (),
) -> NetworkError:
    """Return the error for a constructor that raised `cause`: the option it refused, by name.

    Args:
        architecture: what was to be built.
        options: what it was called with.
        cause: what it raised.
        callables: where to look for the names of options, besides the refusing class.
    """
    match = _UNEXPECTED.search(str(cause))
    if match is None or match[2] not in options:
        return _failure(architecture, options, cause)
    known = {name for made in callables for name in _parameters(made)}
    known.update(_parameters(_refuser(architecture, match[1])))
    return NetworkError(
        f"{architecture} has no option '{match[2]}'{suggest(match[2], known - {match[2]})}"
    )


def _maker(architecture: str) -> Callable[..., Any]:
    """Return what builds `architecture` when called with options."""
    if is_function(architecture):
        return _function(architecture)
    if not architecture.startswith(SOURCES):
        _check_name(architecture)

    def make(**options: Any) -> nn.Module:
        module: nn.Module = timm.create_model(architecture, **options)
        return module

    return make


def _function(path: str) -> Callable[..., Any]:
    function: Callable[..., Any] = find(path, error=NetworkError)
    if not callable(function):
        raise NetworkError(f"'{path}' is {type(function).__name__}, not a function")
    return function


def _check_name(architecture: str) -> None:
    if is_model(architecture.partition(".")[0]):
        return
    hint = suggest(architecture, timm.list_models())
    if "/" in architecture or "\\" in architecture:
        hint = (
            f"; for a folder write 'local-dir:{architecture}', "
            f"for the Hugging Face hub 'hf-hub:{architecture}'"
        )
    raise NetworkError(f"unknown architecture '{architecture}'{hint}")


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also reseed accelerators, whose state is not restored.
        torch.default_generator.manual_seed(seed)
        yield


def _failure(architecture: str, options: Mapping[str, Any], cause: Exception) -> NetworkError:
    given = ", ".join(f"{name}={value!r}" for name, value in options.items()) or "no options"
    reason = " ".join(str(cause).split()) or "no reason given"
    return NetworkError(
        f"{architecture} cannot be built with {given}: {type(cause).__name__}: {reason}"
    )


def _refuser(architecture: str, name: str) -> Any:
    """Return what is called `name` in the module of a timm architecture, or None."""
    base = architecture.partition(".")[0]
    if not is_model(base):
        return None
    return getattr(sys.modules[model_entrypoint(base).__module__], name, None)


def _parameters(made: Any) -> list[str]:
    """Return the names of the options that a class or function lists."""
    if not callable(made):
        return []
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(made).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind not in variadic]
