"""Answers: whether one is the truth, and which of many are the same, for votes."""

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

from pfjax.settings.numbers import shown
from pfjax.settings.words import one_line
from pfjax.tasks.canonical import normal_form as normal_form
from pfjax.tasks.canonical import number
from pfjax.tasks.extraction import extract_answer as extract_answer

Equal = Callable[[str, str], bool]
MOST = 8
Truth = str | int | float | Fraction


def same_answer(answer: str | None, truth: Truth, equal: Equal | None = None) -> bool:
    r"""Whether a given answer is the truth; a missing answer never is.

    By their canonical forms, then, if given, by `equal(answer, truth)`, such as a `Grader`.

    >>> same_answer("27", 27.0), same_answer(r"\dfrac{1}{2}", "0.5"), same_answer("1,234,567", "1234567")
    (True, True, True)
    """
    if answer is None:
        return False
    text = _text(truth)
    form = normal_form(text)
    if normal_form(answer) == form:
        return True
    # 1,234,567 is several numbers in itself, and one where the truth is one.
    given = number(answer)
    if given is not None and str(given) == form:
        return True
    return equal is not None and _equal(equal, answer, text)


def extracted(extract: Callable[[str], str | None], text: str) -> str | None:
    """What an extraction rule finds; ValueError for one that raises, or finds what is no text."""
    name, wanted = getattr(extract, "__name__", type(extract).__name__), "wanted a text, or None"
    try:
        found = extract(text)
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"extract: {name}({shown(text)}) raised {what}; {wanted}.") from error
    if found is not None and not isinstance(found, str):
        raise ValueError(f"extract: {name}({shown(text)}) returned {shown(found)}, {wanted}.")
    return found


def vote_keys(answers: Sequence[str | None], equal: Equal | None = None) -> list[str | None]:
    """For each answer the text that its votes count for: the canonical form, None for no answer.

    Forms that `equal` calls the same, or that are the same as a third, count together, for the one of most
    answers, so that their order does not matter. Of many forms each is compared with the `MOST` largest.

    >>> vote_keys(["1/2", r"\\frac12", None, "2"])
    ['1/2', '1/2', None, '2']
    """
    forms = [None if answer is None else normal_form(answer) or None for answer in answers]
    if equal is None:
        return list(forms)
    said: dict[str, str] = {}
    for form, answer in zip(forms, answers, strict=True):
        if form is not None and answer is not None:
            said[form] = min(said.get(form, answer), answer)
    counts = Counter(form for form in forms if form is not None)
    ordered = sorted(said, key=lambda form: (-counts[form], form))
    leader = {form: form for form in ordered}
    for i, b in enumerate(ordered):
        for a in ordered[: min(i, MOST)]:
            if leader[a] != leader[b] and _may_be(a, b) and _equal(equal, said[a], said[b]):
                old, new = sorted((leader[a], leader[b]), key=ordered.index, reverse=True)
                leader = {k: new if v == old else v for k, v in leader.items()}
    return [None if form is None else leader[form] for form in forms]


def _may_be(a: str, b: str) -> bool:
    """Two numbers are the same only if their forms are."""
    return number(a) is None or number(b) is None


def _equal(equal: Equal, a: str, b: str) -> bool:
    try:
        return bool(equal(a, b))
    except Exception as error:
        name = getattr(equal, "__name__", type(equal).__name__)
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(
            f"equal: {name}({one_line(repr(a), 60)}, {one_line(repr(b), 60)}) raised {what}; mend it, or "
            "return False there."
        ) from error


def _text(truth: Truth) -> str:
    if isinstance(truth, str):
        return truth
    try:
        return str(Fraction(truth))
    except (TypeError, ValueError, OverflowError):
        return str(truth)
