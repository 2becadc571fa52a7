"""A mesh as a text: devices over problems x devices over weights."""

import re


def parse_mesh(text: str) -> tuple[int, int]:
    """(problem, model); ValueError for a text of another form.

    >>> parse_mesh("2x4")
    (2, 4)
    """
    found = re.fullmatch(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})", text.strip())
    if found is None:
        raise ValueError(f"mesh is {text!r}, wanted PROBLEMxMODEL devices such as 1x4.")
    return int(found[1]), int(found[2])
