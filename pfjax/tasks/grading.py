"""Answers: the last \\boxed{} of a solution, and when two answers are the same.

Two answers are the same when their normal forms are: blanks, `$`, a trailing full stop, thousands
commas and \\text{} go, and integers, decimals and plain fractions are compared as exact rationals.
"""

import re
from fractions import Fraction

_OPEN = "\\boxed{"


def extract_answer(text: str) -> str | None:
    r"""The content of the last closed \boxed{} with balanced braces, or None.

    >>> extract_answer(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    start = text.rfind(_OPEN)
    while start >= 0:
        depth, begin = 1, start + len(_OPEN)
        for i in range(begin, len(text)):
            depth += (text[i] == "{") - (text[i] == "}")
            if depth == 0:
                return text[begin:i].strip()
        start = text.rfind(_OPEN, 0, start)
    return None


def normal_form(answer: str) -> str:
    r"""The text that stands for all ways to write an answer.

    >>> normal_form("1,200.50"), normal_form(r"\frac{2}{4}"), normal_form("007")
    ('2401/2', '1/2', '7')
    """
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", answer).replace("\\!", "").replace("$", "")
    text = re.sub(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2", text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", re.sub(r"\s+", "", text)).rstrip(".")
    if re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)(/\d+)?", text) and not re.search(r"/0+$", text):
        head, _, tail = text.partition("/")
        return str(Fraction(head) / Fraction(tail or "1"))
    return text


def same_answer(answer: str | None, truth: str) -> bool:
    """Whether a given answer is the truth; a missing answer never is."""
    return answer is not None and normal_form(answer) == normal_form(truth)
