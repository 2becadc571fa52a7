"""Values of users in messages of one line."""


def is_whole(text: str) -> bool:
    """Whether a text has no half of a character (a surrogate) in it, which no file and no model takes.

    >>> is_whole("a"), is_whole(chr(0xD800))
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
