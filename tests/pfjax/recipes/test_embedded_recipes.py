"""The recipes of the embedded models: what their batches hold and what growing a trunk keeps."""

import jax.numpy as jnp
import numpy as np
import pytest

from pfjax import models
from pfjax.embedded.tokenizer import PROBE
from pfjax.models.decoder import forward
from pfjax.recipes import embedded_prm, labelled
from pfjax.search.loading import resolve
from pfjax.tasks import orchard

SMALL = models.load_policy(resolve("embedded:small"))


@pytest.mark.slow
def test_new_layers_change_nothing_at_first():
    module = embedded_prm.grow(SMALL, 2)
    ids = jnp.asarray(np.random.default_rng(0).integers(300, 430, (2, 9)), jnp.int32)
    grown = module.decoder.logits(forward(module.decoder, ids))
    assert module.config.num_layers == SMALL.config.num_layers + 2
    np.testing.assert_allclose(grown, SMALL.logits(ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kinds", [("references", "equations"), ("checked", "references", "x")])
def test_references_come_in_every_depth(kinds):
    """Alternating kinds must not tie the depth to the parity of the batch number."""
    probe, turns = SMALL.tokenizer.token_id(PROBE), [i for i in range(18) if _is(kinds, i)]
    batches = [embedded_prm._batch(SMALL.tokenizer, {}, kinds, i) for i in turns[:6]]
    depths = {int((b["ids"][0] == probe).sum()) - 1 for b in batches}
    assert depths == {2, 3, 4, 5, 6, 7}
    assert all(b["weight"].sum() > 0 and not b["label"].any() for b in batches)


def _is(kinds: tuple[str, ...], i: int) -> bool:
    return kinds[i % len(kinds)] == "references"


def test_half_of_the_checked_results_are_wrong():
    batch = embedded_prm._batch(SMALL.tokenizer, {}, ("checked",), 3)
    right, marked = batch["label"].sum(), batch["token"].sum()
    assert marked == 640 and abs(right / marked - 0.5) < 0.1
    for row, token, label in zip(batch["ids"], batch["token"], batch["label"], strict=True):
        for at in np.flatnonzero(token):
            said = SMALL.tokenizer.decode(row[at - 4 : at + 1])
            left, value = said.split(" = ")
            assert (eval(left) == int(value)) == bool(label[at])


def test_labels_turn_at_the_first_wrong_token():
    problem = orchard.generate(3, depth=(4, 4))
    steps = list(problem.steps)
    name, value = problem.statements[1].name, problem.statements[1].value
    steps[1] = steps[1].replace(f" {value}.", f" {(value + 7) % 99}.")
    row = labelled.encode(SMALL.tokenizer, problem, steps)
    probes = [label for label, probe in zip(row["label"], row["probe"], strict=True) if probe]
    assert probes == [1.0, 0.0, 0.0, 0.0, 0.0], (name, steps)
    wrong = row["label"].index(0.0, row["probe"].index(1.0))
    assert SMALL.tokenizer.decode([int(row["ids"][wrong])]) == str((value + 7) % 99)
