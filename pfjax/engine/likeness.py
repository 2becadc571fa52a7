"""When two functions are alike, so that what was compiled with one serves the other.

A resampler or a potential that is made anew, `when(ess_below(0.3), ssp)`, is another object with the same
code and the same values inside. `likeness` names both by code, defaults, closure and the globals that the
code reads, so a changed constant in a notebook cell is another function; an object is its class and
attributes, a class of a notebook what stands in it. What it does not know for sure is alike only to itself:
functions and classes of installed modules, objects of types that are not written in Python. Like
`jax.jit`, it does not see those change.
"""

import dataclasses
import functools
import hashlib
import sys
import types
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import numpy as np

LARGEST = 1 << 16
_PLAIN = (bool, int, float, complex, str, bytes, type(None), range)
_UNSAID = ("__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__")


class Itself:
    """Equal to the same object only, which it keeps alive."""

    def __init__(self, value: object):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and self.value is other.value

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


def _of(value: Any, seen: dict[int, tuple[int, Any]]) -> Hashable:
    """`seen` numbers what was met, and keeps it, so that nothing is walked twice."""
    if type(value) in _PLAIN:
        return type(value), repr(value) if isinstance(value, (float, complex)) else value
    if id(value) in seen:
        return "again", seen[id(value)][0]
    seen[id(value)] = len(seen), value
    of = functools.partial(_of, seen=seen)
    if type(value) in (tuple, list) or _is_named_tuple(value):
        return type(value), tuple(map(of, value))
    if type(value) is dict:
        return dict, tuple((of(k), of(v)) for k, v in value.items())
    if type(value) in (np.ndarray, np.dtype) or isinstance(value, (np.generic, jax.Array)):
        return _of_array(value)
    if type(value) is functools.partial:
        return functools.partial, of(value.func), of(value.args), of(value.keywords)
    if isinstance(value, types.MethodType):
        return types.MethodType, of(value.__func__), of(value.__self__)
    if isinstance(value, (staticmethod, classmethod)):
        return type(value), of(value.__func__)
    if isinstance(value, types.FunctionType) and not _is_installed(value):
        return types.FunctionType, value.__code__, *map(of, _inside(value))
    if isinstance(value, type) and _is_of_a_notebook(value):
        said = {k: v for k, v in vars(value).items() if k not in _UNSAID}
        return type, value.__qualname__, of(value.__bases__), of(said)
    if type(value).__name__ == "PjitFunction":
        return "jit", of(value.__wrapped__)
    if _is_plain_instance(value):
        return "instance", of(type(value)), of(vars(value))
    return Itself(value)


def _of_array(value: Any) -> Hashable:
    if isinstance(value, np.dtype):
        return np.dtype, str(value)
    try:  # arrays of JAX do not change
        small = value.size <= LARGEST or not isinstance(value, jax.Array)
        data = np.ascontiguousarray(value) if small else None
    except TypeError:  # keys and traced values
        data = None
    if data is None or data.dtype.hasobject:
        return Itself(value)
    digest = hashlib.blake2b(data.view(np.uint8).data).hexdigest() if data.size else ""
    return type(value).__name__, np.shape(value), str(data.dtype), digest


def _inside(function: types.FunctionType) -> tuple[Any, ...]:
    """What a function acts by, beside its code."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    wrapped = {k: v for k, v in vars(function).items()}
    read = list(_read_globals(function))
    return function.__defaults__, function.__kwdefaults__, cells, read, wrapped


def _is_installed(function: types.FunctionType) -> bool:
    """Whether it is the function that its module has by that name, in a module that is no notebook."""
    module = sys.modules.get(function.__module__)
    if module is None or function.__module__ == "__main__" or function.__closure__:
        return False
    return getattr(module, function.__qualname__, None) is function


def _is_of_a_notebook(kind: type) -> bool:
    return kind.__module__ == "__main__" or "<locals>" in kind.__qualname__


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields") and not hasattr(value, "__dict__")


def _is_plain_instance(value: Any) -> bool:
    """Whether an object is its class and attributes, as far as those are written in Python."""
    if isinstance(value, types.SimpleNamespace):
        return True
    kind = type(value)
    if isinstance(value, (type, types.ModuleType)) or not hasattr(value, "__dict__"):
        return False
    if kind.__module__.split(".")[0] in ("jax", "jaxlib", "flax", "builtins"):
        return False
    # Something of C inside, such as a dict's entries, is not among the attributes.
    return dataclasses.is_dataclass(value) or all(
        base is object or base.__flags__ & 1 << 9 for base in kind.__mro__
    )


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
