"""Every PRM format: the ids of the published text, scores at the published place, step by step as at once."""

import families
import jax.numpy as jnp
import numpy as np
import pytest
import toy_tokenizers
from flax import nnx

from pfjax import models
from pfjax.models.formats import PRM_KINDS
from pfjax.models.prm import paper_log_odds

QUESTION = "Ann has 3 apples. Why?"
STEPS = ["Bob has 3 + 4 = 7.", "So Ann has more.", "The answer is \\boxed{7}."]


@pytest.fixture(scope="module")
def prms(tmp_path_factory):
    """A random PRM of each kind, by name."""
    from pathlib import Path

    folder = tmp_path_factory.mktemp("tokenizers")
    sizes = {"llama": toy_tokenizers.llama_like(folder / "llama")}
    sizes["mistral"] = toy_tokenizers.mistral_like(folder / "mistral")
    tokenizers = {name: models.Tokenizer.from_folder(folder / name) for name in sizes}
    tokenizers["qwen"] = models.load_prm(Path(__file__).parent / "fixtures" / "prm").tokenizer
    sizes["qwen"] = tokenizers["qwen"].vocab_size
    bases = {"qwen": ("qwen", "qwen2-grouped-7"), "qwen-once": ("qwen", "qwen2-grouped-7")}
    bases |= {"skywork": ("qwen", "qwen2-ungrouped"), "rlhflow": ("llama", "llama3")}
    bases |= {"math-shepherd": ("mistral", "mistral-window")}
    built = {}
    for name, (tokenizer, family) in bases.items():
        config = families.config(family)
        config = models.DecoderConfig(
            **(vars(config) | dict(vocab_size=sizes[tokenizer], num_layers=2, sliding_layers=config.sliding_layers[:2]))
        )  # fmt: skip
        kind = PRM_KINDS[name]
        built[name] = models.PRM(
            _module(config, kind, tokenizers[tokenizer]), tokenizers[tokenizer], kind
        )
    return built


def _module(config, kind, tokenizer):
    if kind.head == "classes":
        module = models.ProcessRewardModel(config, rngs=nnx.Rngs(0))
    elif kind.head == "value":
        module = models.ValueModel(config, rngs=nnx.Rngs(0))
    else:
        minus, plus = (tokenizer.encode(text)[-1] for text in kind.tokens)
        module = models.TokenModel(config, minus, plus, rngs=nnx.Rngs(0))
    module.decoder = families.decoder(config)
    for name in ("score_in", "score_out", "value_head"):
        if hasattr(module, name):
            weight = getattr(module, name).weight
            draw = np.random.default_rng(len(name)).normal(size=weight.shape[::-1]).T
            weight[...] = jnp.asarray(draw * weight.shape[1] ** -0.5, jnp.float32)
    return module


def published(prm) -> tuple[str, str]:
    """(the text a paper's code would encode at once, the text that each read position ends)."""
    tokenizer, name = prm.tokenizer, prm.kind.name
    if name == "qwen":
        start = tokenizer.chat([{"role": "user", "content": QUESTION}])
        return start + "".join(s + "<extra_0>" for s in STEPS), "<extra_0>"
    if name == "qwen-once":
        start = tokenizer.chat([{"role": "user", "content": QUESTION}])
        return start + "\n\n".join(STEPS) + "<extra_0>", "<extra_0>"
    if name == "skywork":
        bos = tokenizer.special_tokens["bos_token"]
        return bos + QUESTION + "\n" + "".join(s + "\n" for s in STEPS), "\n"
    if name == "rlhflow":
        chat = []
        for i, step in enumerate(STEPS):
            content = f"{QUESTION} {step}" if i == 0 else step
            chat += [{"role": "user", "content": content}, {"role": "assistant", "content": "+"}]
        text = tokenizer.chat(chat, add_generation_prompt=False)
        return text.removesuffix("+<|eot_id|>"), "assistant<|end_header_id|>\n\n"
    return f"<s>{QUESTION} " + "\n".join(s + " ки" for s in STEPS), " ки"


@pytest.mark.parametrize("name", PRM_KINDS)
def test_pieces_are_the_published_text(name, prms):
    """Encoded piece by piece and at once: the same ids, read at the same places.

    Between steps that are parted by a blank line at once may merge ".\\n\\n"; the text is the same.
    """
    prm = prms[name]
    ids, read = prm.encode(QUESTION, STEPS)
    text, end = published(prm)
    at_once = prm.tokenizer.encode(text)
    decode = prm.tokenizer.decode
    assert decode(ids, keep_special=True) == decode(at_once, keep_special=True)
    assert ids == at_once or name == "qwen-once"
    wanted = 1 if name == "qwen-once" else 3
    assert len(read) == wanted
    for at in read:
        assert prm.tokenizer.decode(ids[: at + 1], keep_special=True).endswith(end)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRM_KINDS)
def test_step_by_step_equals_at_once(name, prms):
    """Three particles on two questions, moved and forked between the steps."""
    prm = prms[name]
    questions = [QUESTION, "Bob is 2. So?"]
    state = models.begin(prm, questions, 3, room=400)
    solutions = [[[], [], []], [[], [], []]]
    draw = np.random.default_rng(0)
    for t in range(3):
        step = [[f"{STEPS[(t + i + p) % 3]} {i + t}" for i in range(3)] for p in range(2)]
        step[1][2] = None if t == 1 else step[1][2]
        state = models.append(prm, state, step)
        for p in range(2):
            for i in range(3):
                solutions[p][i] = solutions[p][i] + [step[p][i]] * (step[p][i] is not None)
                wanted = prm.score(questions[p], solutions[p][i])[-1]
                np.testing.assert_allclose(state.value[p, i], wanted, rtol=0, atol=1e-4)
        ancestors = draw.integers(0, 3, (2, 3))
        state = models.select(state, jnp.asarray(ancestors))
        solutions = [[solutions[p][a] for a in ancestors[p]] for p in range(2)]
    assert np.ptp(np.asarray(state.value)) > 0.01


@pytest.mark.parametrize("name", PRM_KINDS)
def test_a_score_knows_nothing_of_later_steps(name, prms):
    scores = prms[name].score(QUESTION, STEPS)
    np.testing.assert_allclose(prms[name].score(QUESTION, STEPS[:2]), scores[:2], rtol=0, atol=1e-4)


def test_step_by_step_costs_each_token_once(prms):
    prm = prms["qwen"]
    state = models.begin(prm, [QUESTION], 1, room=200)
    for step in STEPS:
        state = models.append(prm, state, [[step]])
    ids, _ = prm.encode(QUESTION, STEPS)
    assert int(state.tokens[0, 0]) == len(ids) - int(state.prefix.length[0])


def test_the_paper_rounds_probabilities(prms):
    z = jnp.array([[0.0, 0.3], [1.5, -2.0], [-4.0, 5.0]])
    p = np.exp(np.float64(0.3)) / (1 + np.exp(np.float64(0.3)))
    rounded = np.float64(jnp.bfloat16(p))  # 0.3 rounds in bfloat16 first, by less than its step
    found = np.asarray(paper_log_odds(z))
    assert abs(found[0] - np.log(rounded / (1 - rounded))) < 0.02 and found[2] == np.inf
    exact = prms["qwen"].score(QUESTION, STEPS)
    paper = prms["qwen"].score(QUESTION, STEPS, paper=True)
    assert not np.array_equal(paper, exact) and np.abs(paper - exact).max() < 0.05


def test_a_policy_judges_itself(checkpoint):
    """Two tokens' logits at the probe; a fresh value head is even odds; the weights are the policy's."""
    policy = models.load_policy(checkpoint("tied"))
    prm = models.token_prm(policy, "+", "-", probe="<extra_0>")
    ids, read = prm.encode(QUESTION, STEPS)
    plus, minus = (policy.tokenizer.token_id(t) for t in "+-")
    z = np.asarray(policy.logits(np.array([ids])))[0, read]
    np.testing.assert_allclose(
        prm.score(QUESTION, STEPS), z[:, plus] - z[:, minus], rtol=0, atol=1e-4
    )
    valued = models.value_prm(policy, probe="<extra_0>")
    np.testing.assert_array_equal(valued.score(QUESTION, STEPS), np.zeros(3))
    assert valued.module.decoder is policy.decoder
    with pytest.raises(models.CheckpointError, match="lacks '<good>'"):
        models.token_prm(policy, "<good>", "-", probe="<extra_0>")


@pytest.mark.slow
def test_the_reserved_tokens_of_a_policy_can_steer_a_search():
    """The generic adapter inside the solver: one probe token, same vocabulary."""
    import pfjax
    from pfjax.search.loading import resolve

    policy = models.load_policy(resolve("embedded:small"))
    prm = models.token_prm(policy, "1", "2", probe="<extra_0>")
    solver = pfjax.Solver(policy, prm)
    result = solver.solve("Lee has 5 apples. Ivy has Lee + 3. How many apples does Ivy have?", 2)
    path = result.tree.path(0)
    whole = [i for i, node in enumerate(path) if node.text.endswith("\n\n") or node.finished]
    wanted = prm.score(result.question, [node.text.strip() for node in path])
    found = np.array([node.value for node in path])
    np.testing.assert_allclose(found[whole], np.asarray(wanted)[whole], rtol=0, atol=1e-4)


def test_wrong_use_is_named(prms):
    prm = prms["qwen"]
    state = models.begin(prm, [QUESTION], 2, room=8)
    with pytest.raises(ValueError, match=r"steps are \[1\] texts, wanted 2 for each of 1"):
        models.append(prm, state, [["a"]])
    with pytest.raises(ValueError, match="room was made for 8; begin with more"):
        models.append(prm, state, [[" ".join(STEPS), None]])
    with pytest.raises(ValueError, match="exceed the 4096 that the PRM takes"):
        models.begin(prm, [QUESTION], 2, room=5000)
