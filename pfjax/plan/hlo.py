"""Reading a compiled program's text: which operations stand inside its loops.

Knows nothing of models.
"""

import re
from collections import Counter

_COLLECTIVE = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\(")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply|branch_computations)=\{?%?([\w.-]+)")
_IN_PLACE = re.compile(r"output_to_operand_aliasing=\{\{\}: .*calls=%?([\w.-]+)")
_ARRAY = re.compile(r"[a-z]+\d*\[([\d,]*)\](\{[^}]*\})?")

Computations = dict[str, list[str]]


def parse(text: str) -> Computations:
    """The lines of every computation by its name."""
    found: Computations = {}
    current: list[str] = []
    for line in text.splitlines():
        start = re.match(r"^(?:ENTRY )?%?([\w.-]+) \(.*-> .*\{\s*$", line)
        if start:
            current = found.setdefault(start[1], [])
        elif line.strip() != "}":
            current.append(line)
    return found


def _loop_bodies(computations: Computations) -> set[str]:
    """Computations that run inside some while loop, called ones included."""
    bodies = {
        m[1]
        for lines in computations.values()
        for line in lines
        if re.search(r" while\(", line)
        for m in [re.search(r"body=%?([\w.-]+)", line)]
        if m
    }
    todo, seen = list(bodies), set(bodies)
    while todo:
        for line in computations.get(todo.pop(), []):
            for name in _CALLED.findall(line):
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
    return seen


def collectives_in_loops(computations: Computations) -> dict[str, int]:
    """How many collectives of each kind stand inside loops; an asynchronous pair counts once."""
    counts: Counter[str] = Counter()
    for name in _loop_bodies(computations):
        for line in computations.get(name, []):
            found = _OPERATION.match(line)
            kind = found[3].removesuffix("-start") if found else ""
            if re.fullmatch(_COLLECTIVE, kind):
                counts[kind] += 1
    return dict(counts)


def copies_in_loops(computations: Computations, shapes: set[tuple[int, ...]]) -> int:
    """Copies and transpositions inside loops of arrays whose axes are those of one of `shapes`.

    Prefetches into a TPU's vector memory (memory space 1) are reads, not copies; neither is a copy
    that is all of a fusion whose output is its operand's memory.
    """
    in_place = _copies_in_place(computations)
    wanted = {tuple(sorted(shape)) for shape in shapes}
    count = 0
    for name in _loop_bodies(computations):
        for line in computations.get(name, []):
            found = _OPERATION.match(line)
            if not found or found[3] not in ("copy", "copy-start", "transpose"):
                continue
            if name in in_place:
                continue
            array = _ARRAY.search(found[2])
            if array is None or "S(1)" in (array[2] or ""):
                continue
            shape = tuple(int(d) for d in array[1].split(",") if d)
            count += tuple(sorted(shape)) in wanted
    return count


def _copies_in_place(computations: Computations) -> set[str]:
    """Fusions into their operand's memory that hold nothing but parameters and a copy of one."""
    aliased = {m[1] for body in computations.values() for m in map(_IN_PLACE.search, body) if m}
    return {name for name in aliased if _only_a_copy(computations.get(name, []))}


def _only_a_copy(body: list[str]) -> bool:
    kinds = [found[3] for found in map(_OPERATION.match, body) if found]
    return sorted(kind for kind in kinds if kind != "parameter") == ["copy"]
