"""How a question is put to a model: system text, shots, the user's turn, the template and its arguments.

    text = Prompt(system="Be brief.", shots=(("1+1?", "2"),)).text(tokenizer, question)

A template is Jinja in the form of Hugging Face chat templates. Only the template's own marks are control
tokens: `<|im_end|>` in a question or a shot is text. Knows nothing of models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date as Date

from pfjax.models._asked import is_whole, shown
from pfjax.models.tokenizer import Tokenizer

BOX = "Please reason step by step, and put your final answer within \\boxed{}."
PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}Question: {{ message.content | trim }}\nAnswer:"
    "{% elif message.role == 'assistant' %} {{ message.content | trim }}\n\n"
    "{% else %}{{ message.content | trim }}\n\n{% endif %}{% endfor %}"
)
PLAIN_STOP = "Question:"
QUESTION = "{question}"
FIXED_DATE = Date(2025, 1, 1)


@dataclass(frozen=True)
class Prompt:
    """A question as a conversation.

    `user` is the user's turn, with "{question}" where the question stands; `shots` are pairs of a question
    and its solution, told as earlier turns. `system` None leaves that to the template. `arguments` go to
    the template, such as {"enable_thinking": False}; `date` is today for it, fixed so that a seed has one
    result. `template` None is the tokenizer's own, or `PLAIN` where it has none; "plain" is `PLAIN`: text
    to be completed.
    """

    user: str = QUESTION
    system: str | None = None
    shots: tuple[tuple[str, str], ...] = ()
    arguments: Mapping[str, object] = field(default_factory=dict)
    date: Date = FIXED_DATE
    template: str | None = None

    def __post_init__(self):
        texts = {"user": self.user, "system": self.system or "", "template": self.template or ""}
        for name, value in texts.items():
            _require(isinstance(value, str) and is_whole(value), name, value, "a text")
        wanted = f"a text with {QUESTION} where the question stands"
        _require(QUESTION in self.user, "user", self.user, wanted)
        pairs = "pairs of texts: (question, solution), ..."
        shots = self.shots
        _require(
            isinstance(shots, (list, tuple)) and all(map(_is_pair, shots)), "shots", shots, pairs
        )
        object.__setattr__(self, "shots", tuple(map(tuple, shots)))
        named = isinstance(self.arguments, Mapping) and all(
            isinstance(k, str) for k in self.arguments
        )
        _require(named, "arguments", self.arguments, "names and values for the template")
        _require(isinstance(self.date, Date), "date", self.date, "a datetime.date")

    def require_kept(self, tokenizer: Tokenizer) -> None:
        """ValueError if the template leaves out the question, a shot or the system text.

        Of each the last line is looked for: some templates drop the thoughts of earlier turns.
        """
        asked = "\ue000asked\ue000"
        text, shots = self.text(tokenizer, asked), [part for shot in self.shots for part in shot]
        wanted = {"question": [asked], "shots": shots, "system": [self.system or ""]}
        for name, parts in wanted.items():
            last = [part.strip().rpartition("\n")[2].strip() for part in parts]
            if not all(line in text for line in last):
                fix = "; put that text into user" if name == "system" else ""
                raise ValueError(
                    f"the chat template leaves out the {name}; give another template{fix}."
                )

    def messages(self, question: str) -> list[dict[str, str]]:
        """The turns of the conversation, the question's last."""
        turns = [] if self.system is None else [{"role": "system", "content": self.system}]
        for asked, solution in self.shots:
            turns.append({"role": "user", "content": self.user.replace(QUESTION, asked)})
            turns.append({"role": "assistant", "content": solution})
        return [*turns, {"role": "user", "content": self.user.replace(QUESTION, question)}]

    def text(self, tokenizer: Tokenizer, question: str) -> str:
        """What the model reads, for a person: marks in the question look like the template's own.

        ValueError if the template refuses a turn.
        """
        return self._render(tokenizer, self.messages(question))

    def ids(self, tokenizer: Tokenizer, question: str) -> list[int]:
        """What the model reads, in tokens. ValueError as `text`."""
        messages = self.messages(question)
        veil = tokenizer.veil([turn["content"] for turn in messages])
        veiled = [turn | {"content": veil.hide(turn["content"])} for turn in messages]
        return veil.encode(self._render(tokenizer, veiled))

    def plain(self, tokenizer: Tokenizer) -> bool:
        """Whether the model completes a text, and has to be told where to stop."""
        return self.template == "plain" or (self.template is None and tokenizer.template is None)

    def _render(self, tokenizer: Tokenizer, messages: list[dict[str, str]]) -> str:
        template, arguments = self.template, dict(self.arguments)
        if self.plain(tokenizer):
            template, arguments = PLAIN, {"bos_token": tokenizer.beginning} | arguments
        return tokenizer.chat(messages, template=template, date=self.date, arguments=arguments)


def default_prompt(tokenizer: Tokenizer, own: object = None) -> Prompt:
    """The prompt of a policy for which none is given.

    `own` are the fields that its generation_config.json has under "pfjax_prompt"; else the question is
    followed by the instruction to box the answer, unless the template has one (Qwen2.5-Math).
    """
    if isinstance(own, Mapping):
        try:
            return Prompt(**own)
        except TypeError:
            raise ValueError(
                f"generation_config.json: pfjax_prompt has the fields {sorted(own)}, wanted some of "
                f"{', '.join(Prompt.__dataclass_fields__)}."
            ) from None
    bare, boxing = Prompt(), Prompt(f"{QUESTION}\n{BOX}")
    if bare.plain(tokenizer):
        return boxing
    return bare if "\\boxed" in bare.text(tokenizer, "x") else boxing


def _is_pair(shot: object) -> bool:
    return (
        isinstance(shot, (list, tuple))
        and len(shot) == 2
        and all(isinstance(t, str) and is_whole(t) for t in shot)
    )


def _require(fine: bool, name: str, value: object, wanted: str) -> None:
    if not fine:
        raise ValueError(f"prompt.{name} is {shown(value)}, wanted {wanted}.")
