r"""Where the answer stands in a solution: rules from a text to the text of an answer, or None.

    last_box      \boxed{18}, \boxed 18, \fbox{18}: the last one with something in it
    every_box     all of them, "1, 2"
    hashes        #### 18                                   (GSM8K)
    answer_is     The answer is 18.     Answer: 18
    last_number   … 18 …

`first_of(a, b)` takes what a finds, else what b finds. Every rule takes linear time and none raises.
"""

import re
from collections.abc import Callable

Rule = Callable[[str], str | None]

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BARE = re.compile(r"[-+]?[^\s{}$\\,.;:!?]+(?:[.,/][0-9]+)*")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_HASHES = re.compile(r"####[ \t]*([^\n#]+)")
_IS = re.compile(r"\banswers?[ \t*]*(?:is|are|:|=)[ \t*:,]*", re.IGNORECASE)
_END = re.compile(r"(?<![0-9])\.(?=\s|$)|\.(?=\s+[A-Z]|\s*$)|(?<=\$)[ \t]+(?=[a-z])")
_RUN = re.compile(r"(?:(?<![.0-9])\.)?[0-9](?:[0-9.,/]*[0-9])?")
_NUMBER = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?(?:/[0-9]+)?")
_SIGN = re.compile(r"(?<![0-9A-Za-z)])[-+\u2212]$")


def last_box(text: str) -> str | None:
    r"""The content of the last box that is closed and has something in it.

    >>> last_box(r"so \boxed{\frac{1}{2}}, not \boxed{}."), last_box(r"\boxed 5.")
    ('\\frac{1}{2}', '5')
    """
    found = _boxes(text)
    return found[-1] if found else None


def every_box(text: str) -> str | None:
    r"""All boxes, each once, as a list.

    >>> every_box(r"\boxed{1} or \boxed{2}, so \boxed{1}")
    '1, 2'
    """
    return ", ".join(dict.fromkeys(_boxes(text))) or None


def hashes(text: str) -> str | None:
    """What stands behind the last ####.

    >>> hashes("3 + 15 = 18\\n#### 18")
    '18'
    """
    found = _HASHES.findall(text)
    return found[-1].strip() or None if found else None


def answer_is(text: str) -> str | None:
    """What is said to be the answer, to the end of the sentence; the last time it is said.

    >>> answer_is("So the answer is, $18. Done."), answer_is("**Answer:** 2.5 apples")
    ('$18', '2.5 apples')
    """
    begin = max((said.end() for said in _IS.finditer(text)), default=None)
    if begin is None:
        return None
    said = _END.split(text[begin:].partition("\n")[0], maxsplit=1)[0]
    return said.strip(" \t*:").rstrip(".") or None


def last_number(text: str) -> str | None:
    """The last number.

    >>> last_number("12 of 1,200.50 apples"), last_number("so 5-3"), last_number("it is -3")
    ('1,200.50', '3', '-3')
    """
    runs = list(_RUN.finditer(text))
    if not runs:
        return None
    run = runs[-1]
    if not _NUMBER.fullmatch(run[0]):  # a date, a version, a list
        return re.split("[.,/]", run[0])[-1]
    sign = _SIGN.search(text, max(run.start() - 2, 0), run.start())
    return (sign[0] if sign else "") + run[0]


def first_of(*rules: Rule) -> Rule:
    """The first answer that one of the rules finds."""

    def rule(text: str) -> str | None:
        return next((found for found in (r(text) for r in rules) if found is not None), None)

    return rule


extract_answer = first_of(last_box, hashes, answer_is)


def _boxes(text: str) -> list[str]:
    """Contents of the closed boxes that are not empty and hold no other, in their order."""
    closing, found, inside = None, [], len(text)
    for box in reversed(list(_BOX.finditer(text))):
        closing = _closing(text) if closing is None else closing
        begin = box.end()
        if text[begin : begin + 1] == "{":
            end, begin = closing.get(begin, begin), begin + 1
        else:
            end = _bare(text, begin, closing)
        content = text[begin:end].strip()
        if content and end <= inside:  # else there is another in it
            found.append(content)
        inside = box.start()
    return found[::-1]


def _bare(text: str, begin: int, closing: dict[int, int]) -> int:
    r"""Where what stands behind \boxed without braces ends: 5, or \frac12, or \sqrt{3}."""
    command = _COMMAND.match(text, begin)
    if not command:
        bare = _BARE.match(text, begin)
        return bare.end() if bare else begin
    end = command.end()
    for _ in range(2 if command[1].endswith("frac") else 1):
        if end in closing:
            end = closing[end] + 1
        elif command[1].endswith(("frac", "sqrt")):
            end += len(text[end : end + 1].strip())
    return end


def _closing(text: str) -> dict[int, int]:
    r"""Where each brace that is closed is closed; \{ and \} are no braces."""
    stack, found = [], {}
    for brace in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if brace[0] == "{":
            stack.append(brace.start())
        elif brace[0] == "}" and stack:
            found[stack.pop()] = brace.start()
    return found
