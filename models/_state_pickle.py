"""A stack machine for the pickle of a state dict: it makes descriptions of tensors, nothing else.

It steps through the opcodes that torch.save writes for a flat dict of tensors (pickletools names
and describes them) and stops at any other. No name of the pickle is looked up or called: a global
is a word, and the few words it knows become one of the tuples below. Tuples are never traversed
beyond their first level and dicts never at all, so shared, deep or cyclic values cost nothing.
"""

import pickletools
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from pfjax.models._stored_zip import CONVERT, damaged
from pfjax.models.config import CheckpointError

_STEP_LIMIT, _NAME_LIMIT = 2_000_000, 1000
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1"}
_LITERALS |= {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OTHERS = {"PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "TUPLE", "BINPUT", "LONG_BINPUT"}
_OTHERS |= {"MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BINPERSID"}
_OTHERS |= {"SETITEM", "SETITEMS", "BUILD"}
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_ALLOWED = _CONSTANTS.keys() | _LITERALS | _TUPLES.keys() | _OTHERS
_DTYPES = {"Float": "F32", "Half": "F16", "BFloat16": "BF16", "Double": "F64", "Long": "I64"}
_DTYPES |= {"Int": "I32", "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL"}
_STORAGES = {f"torch {name}Storage": dtype for name, dtype in _DTYPES.items()}
_DICT = "collections OrderedDict"
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"


class Storage(NamedTuple):
    """A flat array of `numel` values in the member data/`key`."""

    dtype: str
    key: str
    numel: int


class Tensor(NamedTuple):
    """A view of a storage, its offset and strides counted in elements; nothing is checked yet."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple


class _Global(NamedTuple):
    name: str


@dataclass
class _Machine:
    path: Path
    stack: list = field(default_factory=list)
    marks: list[list] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)


def state_dict(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of the dict that `data` describes; CheckpointError if it is anything else."""
    root = _run(data, path)
    if not isinstance(root, dict):
        raise _unexpected(path, f"it holds {_kind(root)}, wanted a dict of tensors")
    for name, value in root.items():
        if type(value) is not Tensor:
            raise _unexpected(path, f"{name} is {_kind(value)}, wanted a tensor")
    return root


def _run(data: bytes, path: Path) -> object:
    """The value that the opcodes leave on the stack."""
    machine, source = _Machine(path), BytesIO(data)
    for _ in range(_STEP_LIMIT):
        at = source.tell()
        code = _OPCODES.get(source.read(1).decode("latin-1"))
        if code is None:
            raise damaged(path, f"its pickle ends or has no opcode at byte {at}")
        if code.name not in _ALLOWED:
            raise CheckpointError(
                f"{path}: its pickle uses the opcode {code.name}, which a dict of tensors does "
                f"not need; {CONVERT}."
            )
        try:
            argument = code.arg.reader(source) if code.arg else None
            if code.name == "STOP":
                break
            _step(machine, code.name, argument)
        except CheckpointError:
            raise
        except (IndexError, KeyError, ValueError):
            raise damaged(path, f"its pickle is malformed at byte {at}") from None
    else:
        raise CheckpointError(f"{path}: its pickle takes over {_STEP_LIMIT} steps; {CONVERT}.")
    if len(machine.stack) != 1 or machine.marks or source.read(1):
        raise damaged(path, "its pickle ends too early or too late")
    return machine.stack[0]


def _step(machine: _Machine, name: str, argument) -> None:
    """One opcode; IndexError, KeyError or ValueError where stack or memo lack its operands."""
    stack = machine.stack
    if name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _LITERALS:
        stack.append(argument)
    elif name in _TUPLES:
        stack.append(tuple(_take(stack, _TUPLES[name])))
    elif name == "EMPTY_DICT":
        stack.append({})
    elif name == "MARK":
        machine.marks.append(stack)
        machine.stack = []
    elif name in ("TUPLE", "SETITEMS"):
        machine.stack = machine.marks.pop()
        if name == "TUPLE":
            machine.stack.append(tuple(stack))
        else:
            _set_items(machine.path, machine.stack[-1], stack)
    elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
        machine.memo[len(machine.memo) if argument is None else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(machine.memo[argument])
    elif name == "GLOBAL":
        stack.append(_global(machine.path, argument))
    elif name == "STACK_GLOBAL":
        module, word = _take(stack, 2)
        named = type(module) is str and type(word) is str
        stack.append(_global(machine.path, f"{module} {word}" if named else ""))
    elif name == "SETITEM":
        pair = _take(stack, 2)
        _set_items(machine.path, stack[-1], pair)
    elif name in ("REDUCE", "BUILD"):
        left, right = _take(stack, 2)
        stack.append((_reduce if name == "REDUCE" else _build)(machine.path, left, right))
    elif name == "BINPERSID":
        stack.append(_storage(machine.path, stack.pop()))


def _take(stack: list, count: int) -> list:
    """The last `count` values, removed."""
    taken = [stack.pop() for _ in range(count)]
    return taken[::-1]


def _global(path: Path, words: str) -> _Global:
    if words not in (_DICT, _TENSOR, _PARAMETER) and words not in _STORAGES:
        asked = words.replace(" ", ".") if words.isprintable() else ascii(words)
        raise CheckpointError(
            f"{path}: the file asks for {asked[:200]}, which pfjax never runs; ask its author for "
            "safetensors."
        )
    return _Global(words)


def _set_items(path: Path, target: object, items: list) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        raise damaged(path, "its pickle puts items in what is not a dict")
    for name, value in zip(items[::2], items[1::2], strict=True):
        if type(name) is not str:
            raise _unexpected(path, f"a name in it is {_kind(name)}, wanted text")
        if len(name) > _NAME_LIMIT or not name.isprintable():
            raise damaged(path, f"a name in it is {ascii(name[:80])}")
        if name in target:
            raise damaged(path, f"it holds {name} twice")
        if value is target:
            raise damaged(path, f"{name} is the dict that holds it")
        target[name] = value


def _build(path: Path, target: object, state: object) -> object:
    """`target` unchanged: torch gives a state dict the attribute _metadata, which is left out."""
    if isinstance(target, dict) and isinstance(state, dict) and state.keys() <= {"_metadata"}:
        return target
    raise _unexpected(path, "its pickle sets attributes other than _metadata of a dict")


def _storage(path: Path, words: object) -> Storage:
    match words:
        case ("storage", _Global(name), str(key), str(), int(numel)) if name in _STORAGES:
            if len(key) <= 20 and key.isascii() and key.isdecimal():
                return Storage(_STORAGES[name], key, numel)
    raise damaged(path, "its pickle describes a storage in words that torch does not use")


def _reduce(path: Path, called: object, values: object) -> object:
    """What one of the known functions makes of its arguments; nothing is called."""
    if type(called) is _Global:
        match called.name, values:
            case "collections OrderedDict", ():
                return {}
            case "torch._utils _rebuild_tensor_v2", (storage, offset, shape, strides, bool(), {}):
                if type(storage) is Storage and type(shape) is type(strides) is tuple:
                    return Tensor(storage, offset, shape, strides)
            case "torch._utils _rebuild_parameter", (Tensor() as tensor, bool(), {}):
                return tensor
    raise damaged(path, "its pickle calls a function of torch with arguments that torch never uses")


def _unexpected(path: Path, cause: str) -> CheckpointError:
    return CheckpointError(f"{path}: {cause}; save the model's state_dict() alone.")


def _kind(value: object) -> str:
    """A value in words, never its contents."""
    if value is None or isinstance(value, bool):
        return str(value)
    kinds = {int: "a number", str: "text", _Global: "the name of a function or class"}
    return kinds.get(type(value), f"a {type(value).__name__.lower()}")
