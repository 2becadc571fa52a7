"""When two functions are alike, so that what was compiled with one serves the other.

A resampler or a potential that is made anew, `when(ess_below(0.3), ssp)`, is another object with the same
code and the same values inside. `likeness` names both by code, defaults, closure and the globals that the
code reads, so a changed constant in a notebook cell is another function; an object is its class and
attributes. Functions of installed modules, and objects of types that are not written in Python, are
themselves alone: like `jax.jit`, this does not see them change.
"""

import dataclasses
import functools
import sys
import types
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import numpy as np

LARGEST = 1 << 16
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, np.dtype)


class _Itself:
    """Equal to the same object only, which it keeps alive."""

    def __init__(self, value: object):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def likeness(value: Any) -> Hashable:
    """A key that is equal for values that act alike in a compiled program.

    >>> def above(x):
    ...     return lambda y: y > x
    >>> likeness(above(1)) == likeness(above(1)), likeness(above(1)) == likeness(above(2))
    (True, False)
    """
    return _of(value, {})


def _of(value: Any, seen: dict[int, int]) -> Hashable:
    if isinstance(value, _PLAIN):
        return type(value), repr(value) if isinstance(value, (float, complex)) else value
    if id(value) in seen:
        return "again", seen[id(value)]
    seen = seen | {id(value): len(seen)}
    of = functools.partial(_of, seen=seen)
    if isinstance(value, (tuple, list)):
        return type(value), tuple(map(of, value))
    if isinstance(value, dict):
        return dict, tuple((of(k), of(v)) for k, v in value.items())
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _of_array(value)
    if isinstance(value, functools.partial):
        return functools.partial, of(value.func), of(value.args), of(value.keywords)
    if isinstance(value, types.MethodType):
        return types.MethodType, of(value.__func__), of(value.__self__)
    if isinstance(value, types.FunctionType) and not _is_installed(value):
        inside = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        parts = value.__defaults__, value.__kwdefaults__, inside, list(_read_globals(value))
        return types.FunctionType, value.__code__, tuple(map(of, parts))
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return type(value), of(fields)
    if _is_plain_instance(value):
        return type(value), of(vars(value))
    return _Itself(value)


def _of_array(value: Any) -> Hashable:
    try:
        data = np.asarray(value) if value.size <= LARGEST else None
    except TypeError:  # keys and traced values
        data = None
    if data is None or data.dtype.hasobject:
        return _Itself(value)
    return type(value).__name__, data.shape, str(data.dtype), data.tobytes()


def _is_installed(function: types.FunctionType) -> bool:
    """Whether it is the function that its module has by that name, in a module that is no notebook."""
    module = sys.modules.get(function.__module__)
    if module is None or function.__module__ == "__main__" or function.__closure__:
        return False
    return getattr(module, function.__qualname__, None) is function


def _is_plain_instance(value: Any) -> bool:
    """Whether an object is what its attributes say: of a class in Python, of no module of JAX."""
    if isinstance(value, types.SimpleNamespace):
        return True
    home = type(value).__module__.split(".")[0]
    in_python = type(value).__flags__ & 1 << 9 and hasattr(value, "__dict__")
    return bool(in_python) and home not in ("jax", "jaxlib", "flax", "builtins")


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _read_globals(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals whose names stand in the code, those of modules' attributes among them."""
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found
