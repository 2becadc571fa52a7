r"""Answers in TeX as plain text: \\frac12 is 1/2, \\sqrt3 is sqrt(3), marks that mean nothing go."""

import re
import unicodedata

DEEPEST = 8
_SIGNS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u2014": "-", "\u00b0": "", "\u221e": "inf ", "\u03c0": "pi "}
)
_RAISED = re.compile("[\u00b2\u00b3\u00b9\u2070\u2071\u2074-\u207f]+")
_LOWERED = re.compile("[\u2080-\u208e]+")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e\u2189]")
_GONE = re.compile(
    r"\\(?:left|right|displaystyle|limits|[bB]igg?[lrm]?)(?![A-Za-z])|\\[!()\[\]]|\$|\\\$|[\u20ac\u00a3]"
    r"|\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![A-Za-z])|\\?%"
)
_THIN = re.compile(r"(?<=[0-9])(?:\{,\}|\\,|\\!,?)(?=[0-9]{3})")
_SPACE = re.compile(r"\\[,;: ]|~|\\q?quad(?![A-Za-z])|\s+")
_STYLED = re.compile(
    r"\\(?:text|mathrm|textbf|textit|mathbf|boldsymbol|bm|mbox|textrm|operatorname|rm|bf)\s*\{([^{}]*)\}"
)
_FRAC = re.compile(r"\\[dtc]?frac(?![A-Za-z])\s*")
_NAMED = re.compile(
    r"\\(sqrt|pi|infty|cdot|times|div|pm|cup|cap|ln|log|sin|cos|tan|le|ge|leq|geq)(?![A-Za-z])"
)
_NAMES = {
    "infty": "inf",
    "cdot": "*",
    "times": "*",
    "div": "/",
    "leq": "<=",
    "le": "<=",
    "geq": ">=",
    "ge": ">=",
}
VARIABLE = re.compile(
    r"^(?:[A-Za-z](?:_\{?\w\}?)?|\([a-z](?: ?, ?[a-z])+\)|[Aa]nswer) ?= ?(?=[^=]+$)"
)


def plain(text: str) -> str:
    """Without marks that mean nothing, and with one way to write fractions, roots and names."""
    text = text if text.isascii() else _ascii(text)
    text = _THIN.sub("", text)
    text = text.replace("\\{", "{").replace("\\}", "}") if "\\{" in text else text
    text = _GONE.sub("", text)
    text = _SPACE.sub(" ", text)
    if "\\" in text:
        for _ in range(3):
            text, styled = _STYLED.subn(r" \1 ", text)
            if not styled:
                break
        text = _fractions(_roots(text))
        text = _NAMED.sub(lambda m: f" {_NAMES.get(m[1], m[1])} ", text)
    text = " ".join(text.split()).rstrip(".").strip()
    text = re.sub(r"\^ ?\{([^{}]{1,40})\}(?= ?([0-9A-Za-z(])?)", _power, text)
    return VARIABLE.sub("", text)


def _ascii(text: str) -> str:
    """Superscripts as powers, one-character fractions as those of TeX, other forms by NFKC."""
    text = _RAISED.sub(lambda m: f"^{{{_folded(m[0])}}}", text)
    text = _LOWERED.sub(lambda m: f"_{{{_folded(m[0])}}}", text)
    text = _VULGAR.sub(lambda m: r"\frac{{{}}}{{{}}}".format(*_folded(m[0]).split("\u2044")), text)
    return _folded(text)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)


def _power(found: re.Match) -> str:
    """An exponent, in parentheses if it is not one number or letter, or if more would be read as part of it."""
    inside = found[1].strip()
    alone = re.fullmatch(r"[-+]?[0-9.]+|[A-Za-z]", inside) and not found[2]
    return f"^{inside}" if alone else f"^({inside})"


def _fractions(text: str) -> str:
    r"""\frac{a}{b}, \frac12 and \frac a b as a/b; behind a whole number as a mixed one."""
    for _ in range(DEEPEST):
        found = list(_FRAC.finditer(text))
        if not found:
            break
        start, at = found[-1].span()  # the last has no other inside
        top, at = _argument(text, at)
        bottom, at = _argument(text, at)
        if top is None or bottom is None:
            break
        whole = re.search(r"(?<![0-9.^/*])[0-9]+ ?$", text[:start])
        mixed = whole and top.isdigit() and bottom.isdigit()
        value = f"{_grouped(top)}/{_grouped(bottom)}"
        rest = text[at:]
        joined = rest[:1].isalnum() or rest[:1] in ("(", "\\")
        value = (
            f"({value})" if joined or (start and text[start - 1].isalnum() and not mixed) else value
        )
        text = f"{text[:start]}{' ' if mixed else ''}{value}{rest}"
    return text


def _roots(text: str) -> str:
    r"""\sqrt3 and \sqrt{3} as sqrt(3)."""
    for _ in range(DEEPEST):
        found = re.search(r"\\sqrt(?![A-Za-z])\s*(?=[^\[\s])", text)
        if not found:
            break
        inside, at = _argument(text, found.end())
        if inside is None:
            break
        text = f"{text[: found.start()]}sqrt({inside.strip()}){text[at:]}"
    return text


def _argument(text: str, at: int) -> tuple[str | None, int]:
    """What a command of TeX takes at a place, and where that ends."""
    while text[at : at + 1] == " ":
        at += 1
    if text[at : at + 1] != "{":
        name = re.match(r"\\[A-Za-z]+|[^\s{}\\]", text[at:])
        return (name[0], at + len(name[0])) if name else (None, at)
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if not depth:
            return text[at + 1 : i].strip(), i + 1
    return None, at


def _grouped(text: str) -> str:
    """In parentheses, unless it is one thing."""
    text = text.strip()
    one = re.fullmatch(r"[-+]?[0-9.]+|[A-Za-z]|\\?[A-Za-z]+|sqrt\([^()]*\)", text)
    return text if one else f"({text})"
