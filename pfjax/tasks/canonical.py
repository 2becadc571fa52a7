r"""One form for all ways to write an answer, without a computer algebra system: what votes are counted by.

    18   \$18   18\text{ dollars}   018.0   x=18        ->  18
    \frac12   \dfrac{2}{4}   0.5   1/2                   ->  1/2
    2, 1      1 and 2      \{1, 2\}                      ->  1, 2      a set: the order does not count
    (2, 1)    \left(2,1\right)                           ->  (2, 1)    a point: it does

Numbers are exact rationals. 1,234 is a number, "1, 234", (1,234) and 100,200,300 are several. Units and the
signs of per cent, degrees and currencies go. What differs in form alone (2\pi/4 and \pi/2) stays different
here; `grader.py` compares such answers. Never raises; texts of more than `LONGEST` characters stay as they are.
"""

import re
from fractions import Fraction

from pfjax.tasks.tex import VARIABLE, plain

LONGEST, DEEPEST, DIGITS = 400, 8, 60

_PLAIN = re.compile(r"-?(?:0|[1-9][0-9]{0,50})")
_UNIT = re.compile(
    r"^([-+]?[0-9][0-9.,/ ]*?) ([A-Za-z]{2,}(?:[ /][A-Za-z]+)*\.?(?: ?\^ ?\{?[23]\}?)?)$"
)
_SHORT = set(
    "cm mm km kg mg ml ft in lb lbs oz hr hrs min mi yd sec day usd egg man men boy cup pie car dog cat "
    "pen bag box cow hen kid sq cubic mph".split()
)
_NO_UNIT = set("am pm pi sqrt and or to inf mod ln log sin cos tan choose base".split())
_NO_UNIT |= set(
    "plus minus times divided multiplied over under above below negative modulo remainder".split()
)
_NO_UNIT |= set(
    "squared cubed factorial power half halves third thirds quarter quarters fourth fourths".split()
)
_NO_UNIT |= set(
    "fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths".split()
)
_NO_UNIT |= set("hundredth hundredths thousandth thousandths pair pairs score gross".split())
_MANY = {"dozen": 12, "dozens": 12, "hundred": 100, "thousand": 10**3, "million": 10**6}
_MANY |= {"billion": 10**9, "trillion": 10**12}
_GROUPED = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})(?:\.[0-9]+)?")
_ALL_GROUPED = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_NUMBER = re.compile(
    r"([-+]?)\(?([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\)?(?:/\(?([-+]?[0-9]+(?:\.[0-9]+)?)\)?)?"
)
_MIXED = re.compile(r"([-+]?)([0-9]+) ([0-9]+)/([0-9]+)")
_POWER = re.compile(
    r"([-+]?[0-9]+(?:\.[0-9]+)?)(?: ?\* ?10 ?\^ ?[({]?([-+]?[0-9]{1,3})[)}]?|[eE]([-+]?[0-9]{1,3}))"
)
_AND = re.compile(r" ?(?:,| |^)(?: ?and | ?or )|;")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def normal_form(answer: str) -> str:
    r"""The text that stands for all ways to write an answer.

    >>> normal_form("1,200.50"), normal_form(r"\frac{2}{4}"), normal_form(r"18\text{ dollars}")
    ('2401/2', '1/2', '18')
    """
    text = answer if isinstance(answer, str) else str(answer)
    text = text.strip()
    if _PLAIN.fullmatch(text) and text != "-0":
        return text
    if len(text) > LONGEST:
        return text
    before = None
    for _ in range(DEEPEST):  # forms settle at once but for odd ones
        if text == before:
            break
        before, text = text, _form(plain(text), 0)
    return text


def number(answer: str) -> Fraction | None:
    """The number that a text is, thousands in groups too; None if it is none.

    >>> number("1,234,567"), number("0.50")
    (Fraction(1234567, 1), Fraction(1, 2))
    """
    text = plain(answer.strip()) if len(answer) <= LONGEST else ""
    return _number(text.replace(",", "") if _ALL_GROUPED.fullmatch(text) else text)


def _form(text: str, depth: int) -> str:
    """The form of one answer, or of several."""
    text = text.strip()
    if depth > DEEPEST or not text:
        return text
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    value = _number(text)
    if value is not None:
        return str(value)
    value = _measured(text)
    if value is not None:
        return str(value)
    parts = _split(_AND.sub(", ", text))
    if len(parts) > 1 and all(parts):
        bare = [VARIABLE.sub("", part) for part in parts]
        names = {part.removesuffix(b).strip() for part, b in zip(parts, bare, strict=True)} - {""}
        # Values of one variable are a set, those of several keep their names.
        return ", ".join(sorted({_form(x, depth + 1) for x in (bare if len(names) < 2 else parts)}))
    close = _PAIRS.get(text[0])
    if close and _spans(text) and text[-1] in ")]}":
        inner = _split(text[1:-1])
        if text[0] == "{" and text[-1] == "}":
            return _form(text[1:-1], depth + 1)
        if len(inner) > 1 and all(inner):
            forms = ", ".join(_form(part, depth + 1) for part in inner)
            return f"{text[0]}{forms}{text[-1]}"
        if re.fullmatch(r"\([A-Za-z]\)", text):
            return text[1]
    plus_minus = re.fullmatch(r"pm ?(.+)", text)
    if plus_minus:
        return _form(f"-{plus_minus[1].strip()}, {plus_minus[1]}", depth + 1)
    return _words(text)


def _measured(text: str) -> Fraction | None:
    """The number of a number with a unit."""
    unit = _UNIT.match(text)
    words = re.findall("[a-z]+", unit[2].lower()) if unit else []
    if not unit or _NO_UNIT & set(words) or not (len(words[0]) > 3 or words[0] in _SHORT):
        return None
    value = number(unit[1])
    for word in words:
        value = value and value * _MANY.get(word, 1)
    return value


def _words(text: str) -> str:
    """Words are in small letters; other texts lose their blanks."""
    if re.fullmatch(r"[A-Za-z]{2,}(?:[ '-][A-Za-z]+)*", text):
        return text.lower()
    text = re.sub(r"(?<![0-9])\s+|\s+(?![0-9.])", "", text)  # "1 2" is not 12
    return re.sub(r"(?<=[0-9A-Za-z)])\*(?=[A-Za-z(])", "", text)


def _number(text: str) -> Fraction | None:
    if not text or len(text) > DIGITS * 2 or not any("0" <= c <= "9" for c in text):
        return None
    text = re.sub(r" ?/ ?", "/", re.sub(r"^([-+]) ", r"\1", text))
    mixed = _MIXED.fullmatch(text)
    if mixed:
        sign, whole, top, bottom = mixed.groups()
        if not int(bottom):
            return None
        value = int(whole) + Fraction(int(top), int(bottom))
        return -value if sign == "-" else value
    power = _POWER.fullmatch(text)
    if power:
        return Fraction(power[1]) * Fraction(10) ** int(power[2] or power[3])
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    sign, top, bottom = found.groups()
    if bottom is not None and not Fraction(bottom):
        return None
    value = Fraction(top) / Fraction(bottom or "1")
    return -value if sign == "-" else value


def _split(text: str) -> list[str]:
    """At the commas outside all brackets."""
    if "," not in text:
        return [text]
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def _spans(text: str) -> bool:
    """Whether the first bracket closes at the end."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False
