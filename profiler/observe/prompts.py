"""Random prompts: token ids where the server takes them, else words; written before the clock starts.

Every prompt is drawn anew, so that none begins like another and the prefix cache finds nothing. Ids stay between 256
and 29,999: above the special tokens of byte-level vocabularies, below those at the end of every vocabulary of 32,000 or
more.
"""

import json
from typing import Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from profiler.observe.answer import Prepared

LEAST_ID: Final = 256
_WORDS: Final = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state"),
    *("family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system"),
    *("program", "question", "work", "number", "night", "point", "home", "water", "room", "mother", "area", "money"),
    *("story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Whole numbers of tokens from ``low`` to ``high``, each as likely."""

    low: int
    high: int

    @property
    def mean(self) -> float:
        """Mean of the draws."""
        return (self.low + self.high) / 2

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def parse_lengths(text: str, option: str) -> Lengths:
    """Read ``512`` or ``128-1024``; raises ``UserError``."""
    low, _, high = text.partition("-")
    words = (low, high or low)
    if not all(word.isascii() and word.isdecimal() and len(word) <= 7 for word in words):
        raise UserError(
            f"{option} is {shown(text)}, must be whole numbers of tokens", hint="for example 512 or 128-1024"
        )
    least, most = map(int, words)
    if not 1 <= least <= most:
        raise UserError(f"{option} is {shown(text)}, must be at least 1 and go upwards", hint="for example 128-1024")
    return Lengths(low=least, high=most)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptForm:
    """How requests are written for one server."""

    model: str
    top_id: int | None  # token ids up to here; None: words
    ignores_eos: bool  # whether ignore_eos is sent
    counts_usage: bool  # whether stream_options is sent
    tokens_per_word: float = 1.3

    @property
    def described(self) -> str:
        """What it says in the answer."""
        prompts = "words" if self.top_id is None else f"token ids {LEAST_ID} to {self.top_id}"
        return f"{prompts}{'' if self.ignores_eos else ', answers may end early (ignore_eos is refused)'}"

    def write(self, rng: np.random.Generator, input_tokens: int, output_tokens: int) -> Prepared:
        """Draw a prompt of that length and write its request."""
        prompt: list[int] | str
        if self.top_id is None:
            count = max(1, round(input_tokens / self.tokens_per_word))
            prompt = " ".join(_WORDS[index] for index in rng.integers(0, len(_WORDS), count))
        else:
            prompt = rng.integers(LEAST_ID, self.top_id + 1, input_tokens).tolist()
        request: dict[str, object] = {"model": self.model, "prompt": prompt, "max_tokens": output_tokens}
        request |= {"temperature": 0.0, "stream": True}
        if self.counts_usage:
            request["stream_options"] = {"include_usage": True}
        if self.ignores_eos:
            request["ignore_eos"] = True
        return Prepared(
            body=json.dumps(request, separators=(",", ":")).encode(),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )

    def draw(self, rng: np.random.Generator, count: int, inputs: Lengths, outputs: Lengths) -> list[Prepared]:
        """Draw that many requests."""
        prompts = rng.integers(inputs.low, inputs.high + 1, count).tolist()
        answers = rng.integers(outputs.low, outputs.high + 1, count).tolist()
        return [self.write(rng, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]


def forms_of(model: str) -> list[PromptForm]:
    """Ways to write a request, the most exact first: a server takes the first that it does not refuse."""
    return [
        PromptForm(model=model, top_id=top_id, ignores_eos=ignores_eos, counts_usage=counts_usage)
        for top_id in (29_999, 1_000, None)
        for ignores_eos, counts_usage in ((True, True), (False, True), (True, False), (False, False))
    ]
