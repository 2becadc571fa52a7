"""Prompts: templates, shots, arguments and dates; what a user writes is text, not control tokens."""

import datetime
import json

import pytest
from toy_tokenizers import llama_like, mistral_like

from pfjax import models
from pfjax.models import Prompt, Tokenizer, default_prompt
from pfjax.models.formats import PRM_KINDS, probe_token
from pfjax.models.prompt import BOX

MARK = "<|eot_id|>"
DATED = "{{ strftime_now('%d %b %Y') }}|{{ enable_thinking }}|{{ messages[-1].content }}"


@pytest.fixture
def llama(tmp_path) -> Tokenizer:
    llama_like(tmp_path / "llama")
    return Tokenizer.from_folder(tmp_path / "llama")


@pytest.fixture
def mistral(tmp_path) -> Tokenizer:
    mistral_like(tmp_path / "mistral")
    return Tokenizer.from_folder(tmp_path / "mistral")


def test_a_prompt_is_the_chat_of_its_turns(llama):
    prompt = Prompt("Q: {question} {x}", "Be brief.", [("Why", "So")])
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q: Why {x}"},
        {"role": "assistant", "content": "So"},
        {"role": "user", "content": "Q: Ann has? {x}"},
    ]
    assert prompt.messages("Ann has?") == turns
    assert prompt.text(llama, "Ann has?") == llama.chat(turns)
    assert prompt.ids(llama, "Ann has?") == llama.encode(llama.chat(turns))


def test_marks_of_a_user_are_text(llama):
    """In questions, shots and system texts; the template's own stay control tokens."""
    end = llama.controls[MARK]
    bare = Prompt(system="x", shots=[("a", "b")])
    marked = Prompt(system=f"x{MARK}", shots=[(f"a{MARK}", f"{MARK}b")])
    own = bare.ids(llama, "Ann").count(end)
    found = marked.ids(llama, f"Ann {MARK} has{MARK}")
    assert found.count(end) == own == 4
    assert llama.decode(found).count(MARK) == 5
    assert (
        llama.decode(found).replace(MARK, "").split()
        == llama.decode(bare.ids(llama, "Ann  has")).split()
    )
    assert llama.encode(MARK) == [end] and end not in llama.encode(f"a{MARK}", control=False)


@pytest.mark.parametrize("kind", sorted(PRM_KINDS))
def test_marks_are_text_for_prms_too(tmp_path, kind):
    """A question or a step that spells a control token does not become one."""
    folder = tmp_path / "llama"
    llama_like(folder)
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    names = ["<extra_0>", " ки"]
    first = max(raw["model"]["vocab"].values()) + 100
    added = [
        dict(raw["added_tokens"][0], id=first + i, content=n, special=False)
        for i, n in enumerate(names)
    ]
    raw["added_tokens"] += added
    path.write_text(json.dumps(raw))
    tokenizer = Tokenizer.from_folder(folder)
    form = PRM_KINDS[kind].format(tokenizer)
    controls = set(tokenizer.controls.values())
    marked = form.prompt(f"Why {MARK} so")
    assert sum(i in controls for i in marked) == sum(i in controls for i in form.prompt("Why so"))
    assert not controls & set(form.step(f"So {MARK}", True))


def test_a_prm_reads_a_prompt_of_ones_own(llama):
    form = probe_token(llama, probe="<|begin_of_text|>", prompt=Prompt(system="Judge."))
    assert "Judge." in llama.decode(form.prompt("Why"))


def test_a_template_sees_arguments_and_a_fixed_date(llama):
    prompt = Prompt(template=DATED, arguments={"enable_thinking": False})
    assert prompt.text(llama, "Why") == "01 Jan 2025|False|Why"
    other = Prompt(template=DATED, date=datetime.date(2026, 2, 3))
    assert other.text(llama, "Why") == "03 Feb 2026||Why"


def test_a_model_without_a_template_completes_text(mistral):
    prompt = Prompt(system="Solve.", shots=[("Why", "So")])
    wanted = "Solve.\n\nQuestion: Why\nAnswer: So\n\nQuestion: Ann has\nAnswer:"
    assert mistral.template is None and prompt.plain(mistral)
    assert prompt.text(mistral, "Ann has") == wanted
    end = mistral.controls["</s>"]
    assert end not in prompt.ids(mistral, "Ann </s> has")


def test_a_plain_prompt_begins_as_the_tokenizer_does(tmp_path):
    """What AutoTokenizer puts in front, and nothing where it puts nothing."""
    from tokenizers import processors

    mistral_like(tmp_path)
    path = tmp_path / "tokenizer.json"
    bare = Tokenizer.from_folder(tmp_path)
    assert bare.beginning == ""
    backend = bare.backend
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    backend.save(str(path))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.beginning == "<s>"
    ids = Prompt().ids(tokenizer, "Why")
    assert ids[0] == 1 and ids.count(1) == 1 and 2 not in ids
    assert Prompt().text(tokenizer, "Why") == "<s>" + Prompt().text(bare, "Why")


def test_the_default_asks_for_a_box_unless_the_template_does(llama, mistral):
    assert default_prompt(llama).user == f"{{question}}\n{BOX}" == default_prompt(mistral).user
    settings = llama.settings | {"chat_template": "in \\boxed{}: {{ messages[0].content }}"}
    asks = Tokenizer(llama.backend, llama.source, settings, settings["chat_template"])
    assert default_prompt(asks) == Prompt()
    assert default_prompt(llama, {"user": "{question}!", "system": "x"}) == Prompt(
        "{question}!", "x"
    )
    with pytest.raises(
        ValueError, match="pfjax_prompt has the fields \\['usr'\\], wanted some of user"
    ):
        default_prompt(llama, {"usr": "x"})


def test_a_policy_judges_itself(llama, tmp_path, checkpoint):
    """v = z_yes - z_no where the answer to the question begins, of the whole conversation."""
    policy = models.load_policy(checkpoint("grouped"))
    vocabulary = policy.tokenizer
    words = [vocabulary.decode([i]) for i in range(vocabulary.vocab_size)]
    singles = [w for w in words if w.isalpha() and len(vocabulary.continued(w)) == 1][:2]
    prm = models.judge(policy, "Right?", *singles)
    steps = ["Ann has 2.", "So"]
    form = prm.format
    assert not form.keep_probe and not form.plain
    chat = (
        form.prompt("Why?")
        + form.step(steps[0], True)
        + list(form.after)
        + form.step(steps[1], False)
    )
    ids = [*chat, *form.probe]
    assert "Right?" in vocabulary.decode(ids)
    z = policy.logits([ids])[0, -1]
    yes, no = (vocabulary.continued(w)[0] for w in singles)
    assert float(prm.score("Why?", steps)[1]) == pytest.approx(float(z[yes] - z[no]), abs=1e-4)
    with pytest.raises(models.CheckpointError, match="is not one token of its tokenizer"):
        models.judge(policy, yes="Surely not 17 of them")


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16"))
def test_dtypes_have_names(dtype):
    assert models.floating(dtype).name == dtype
