"""A solution ends once, with the token that ends an assistant's turn."""

import dataclasses
from pathlib import Path

import enumerable_lm
import pytest
import toy_tokenizers

from pfjax import models
from pfjax.distill.endings import before_stop, closed, closer, end_of_turn
from pfjax.search.loading import resolve
from pfjax.tasks.task import Task

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FIXTURES = Path(__file__).parents[2] / "models/fixtures"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    toy_tokenizers.llama_like(folder / "llama")
    toy_tokenizers.mistral_like(folder / "mistral")
    found = {n: models.Tokenizer.from_folder(folder / n) for n in ("llama", "mistral")}
    return found | {"qwen": models.Tokenizer.from_folder(FIXTURES / "tied")}


def policy(tokenizer, ends, **changes) -> models.Policy:
    tokenizer = dataclasses.replace(tokenizer, **changes)
    return models.Policy(enumerable_lm.policy(), tokenizer, tuple(ends), {})


@pytest.mark.parametrize(
    "tokens, ends, end, wanted",
    [
        ([3, 5, 2], (1, 2), 1, [3, 5, 2]),
        ([3, 5, 1], (1,), 1, [3, 5, 1]),
        ([3, 5, 1], (1, 2), 2, [3, 5, 1]),
        ([3, 5], (1, 2), 2, [3, 5, 2]),
        ([2, 5], (1, 2), 1, [2, 5, 1]),
        ([], (1,), 1, [1]),
        ([3], (), None, [3]),
    ],
)
def test_a_solution_is_closed_once(tokens, ends, end, wanted):
    assert closed(tokens, ends, end) == wanted
    assert closed(wanted, ends, end) == wanted


@pytest.mark.parametrize(
    "name, ends, wanted",
    [
        ("llama", ["<|begin_of_text|>", "<|eot_id|>"], "<|eot_id|>"),
        ("llama", ["<|eot_id|>"], "<|eot_id|>"),
        ("llama", ["<|begin_of_text|>"], "<|begin_of_text|>"),  # the turn's end ends no solution
        ("mistral", ["<s>", "</s>"], "</s>"),  # no template: the tokenizer's eos
        ("mistral", ["<s>"], "<s>"),
    ],
)
def test_the_end_of_a_turn_is_that_of_the_template(tokenizers, name, ends, wanted):
    tokenizer = tokenizers[name]
    model = policy(tokenizer, [tokenizer.token_id(e) for e in ends])
    assert end_of_turn(model) == tokenizer.token_id(wanted)


def test_templates_without_an_end_that_refuse_or_are_the_prompts(tokenizers):
    llama = tokenizers["llama"]
    begin, header, eot = map(
        llama.token_id, ("<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>")
    )
    for template in (
        "{{ messages[0].content }}",  # says no assistant's turn
        "{{ messages[-1].content }}",  # nothing behind it
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
    ):
        assert end_of_turn(policy(llama, (begin, eot), template=template)) == eot
        assert end_of_turn(policy(llama, (begin, header), template=template)) == begin
    own = models.Prompt(template="{{ messages[-1].content }} and<|start_header_id|>")
    assert end_of_turn(policy(llama, (begin, header, eot)), own) == header
    plain = models.Prompt(template="plain")
    assert end_of_turn(policy(llama, (begin, eot)), plain) == eot


def test_chatml_ends_with_im_end_though_eos_is_another(tokenizers):
    """As Qwen2.5's base models with eos_ids (<|endoftext|>, <|im_end|>)."""
    qwen = tokenizers["qwen"]
    end, text = qwen.token_id("<|im_end|>"), qwen.token_id("<|endoftext|>")
    assert None not in (end, text)
    settings = qwen.settings | {"eos_token": "<|endoftext|>"}
    model = policy(qwen, (text, end), settings=settings, template=CHATML)
    assert end_of_turn(model) == end
    close = closer(model, Task())
    body = qwen.encode("So 3.")
    assert close(body) == [*body, end] and close([*body, text]) == [*body, text]


def test_the_embedded_policy_ends_with_its_own():
    small = models.load_policy(resolve("embedded:small"))
    assert end_of_turn(small) == small.eos_ids[0]


def test_a_stop_text_and_what_is_behind_it_is_no_part_of_the_data(tokenizers):
    mistral = tokenizers["mistral"]
    kept, whole = mistral.encode("The answer is 5."), mistral.encode("The answer is 5. Why So 3")
    assert whole[: len(kept)] == kept
    eos = mistral.token_id("</s>")
    model = policy(mistral, (eos,))
    close = closer(model, Task(stop=["Why", "So"]))
    assert (
        mistral.decode(before_stop(whole, mistral, Task(stop="Why"))).strip() == "The answer is 5."
    )
    assert mistral.decode(close(whole)) == mistral.decode(kept) and close(whole)[-1] == eos
    assert close([*whole, eos]) == close(whole) and close(kept) == [*kept, eos]
