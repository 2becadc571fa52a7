"""Values of users in messages of one line."""


def one_line(value: object, most: int = 200) -> str:
    """The text of a value without line breaks, in `most` characters; some objects cannot even be shown.

    >>> one_line("no\\n luck"), one_line("abcdef", 4)
    ('no luck', 'abc…')
    """
    try:
        text = " ".join(str(value).split())
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= most else text[: most - 1] + "…"
