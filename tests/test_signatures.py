"""Signatures that people can read: at most nine arguments, and a docstring that fits on a screen."""

import importlib
import inspect
import pkgutil

import pytest

import pfjax

SCREEN = 40


def modules() -> list[str]:
    """All but the command line, whose options are typed one by one, and whose docstrings are its help."""
    found = [info.name for info in pkgutil.walk_packages(pfjax.__path__, "pfjax.")]
    hidden = [n for n in found if any(part.startswith("_") for part in n.split(".")[1:])]
    return sorted(n for n in set(found) - set(hidden) if not n.startswith("pfjax.cli"))


def public(module) -> dict[str, object]:
    """Functions, classes and methods that are defined there, by name."""
    found: dict[str, object] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            inner = {f"{name}.{n}": v for n, v in vars(value).items() if not n.startswith("_")}
            found |= {n: v for n, v in inner.items() if inspect.isfunction(v)} | {name: value}
        elif inspect.isfunction(value):
            found[name] = value
    return found


@pytest.mark.parametrize("name", modules())
def test_public_functions_have_few_arguments_and_short_docstrings(name):
    for said, value in public(importlib.import_module(name)).items():
        doc = inspect.getdoc(value) or ""
        assert len(doc.splitlines()) <= SCREEN, said
        if inspect.isfunction(value):
            arguments = [p for p in inspect.signature(value).parameters if p != "self"]
            assert len(arguments) <= 9, (said, arguments)
