"""Training recipes by name, as `pfjax train` runs them."""

from pfjax.recipes import distil, embedded, embedded_prm
from pfjax.recipes.recipe import Recipe as Recipe

RECIPES: dict[str, Recipe] = {
    "embedded-small": embedded.small,
    "embedded-large": embedded.large,
    "embedded-prm": embedded_prm.prm,
    "distil": distil.distil,
}
