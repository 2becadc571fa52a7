"""Chat templates: Jinja programs from a checkpoint, run in a sandbox as transformers runs them.

Follows transformers/utils/chat_template_utils.py: immutable sandbox, trimmed blocks, loop controls,
a `tojson` that does not escape HTML, `raise_exception` and `strftime_now`. Templates come from the
network and are untrusted.
"""

import json
from collections.abc import Mapping
from datetime import date as Date
from datetime import datetime
from functools import lru_cache

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pfjax.models.config import CheckpointError


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks text for training; it renders as is."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _refuse(message: str):
    raise jinja2.TemplateError(message)


def _to_json(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def render(
    template: str,
    messages: list[dict[str, str]],
    names: Mapping[str, object],
    *,
    add_generation_prompt: bool,
    date: Date | None = None,
) -> str:
    """The text of a conversation; ValueError if the template refuses the messages.

    `names` are what the template may ask for beside them, `date` is today for it (None: it is).
    """
    try:
        compiled = _compile(template)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(
            f"the chat template is not valid Jinja ({error}); take the one of the original model."
        ) from None
    known = {
        "messages": messages,
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        "strftime_now": lambda form: _day(date).strftime(form),
    }
    try:
        return compiled.render(known | dict(names))
    except jinja2.TemplateError as error:
        said = str(error).rstrip(".")
        raise ValueError(f"the chat template refused the messages: {said}.") from None
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise ValueError(
            f"the chat template failed with a {type(error).__name__} ({error}); mend it, or its arguments."
        ) from None


def _day(date: Date | None) -> datetime:
    return datetime.now() if date is None else datetime(date.year, date.month, date.day)
