"""What a training recipe is."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pfjax.distill import interruption

Progress = Callable[[int, int, dict[str, float]], None]


class Recipe(NamedTuple):
    """`run(folder, progress)` trains in `folder`, resuming what it finds there, and returns final
    metrics.

    The trained model is exported to `folder/model` in Hugging Face format. A recipe with `options`, a
    NamedTuple with defaults, takes one as its third argument.
    """

    summary: str
    run: Callable[..., dict]
    options: type | None = None

    def with_options(self, name: str, given: Mapping[str, object]) -> tuple:
        """What `run` takes beside folder and progress; ValueError for an option that there is not.

        `name` is the recipe's.
        """
        known = getattr(self.options, "_fields", ())
        for option in given:
            if option not in known:
                what = (
                    "has a fixed seed; leave --seed out"
                    if option == "seed"
                    else (f"takes no --{option.replace('_', '-')}; leave it out")
                )
                raise ValueError(f"recipe {name!r} {what}.")
        return () if self.options is None else (self.options(**given),)


def told(progress: Progress, steps: int, what: str) -> Callable[[int, int], None]:
    """What a search in a recipe calls as problems are over: shows how many, and stops on a signal."""

    def report(done: int, total: int) -> None:
        progress(steps, steps, {what: done})
        interruption.check(f"while {what} {done} of {total} problems")

    return report


def ignore(step: int, steps: int, metrics: dict[str, float]) -> None:
    """A Progress that shows nothing."""
