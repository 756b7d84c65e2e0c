"""The streaming interval: tokens of an answer that a server sends to its client together.

The engine makes one token per step and sends what is complete. ``first`` says when the first chunk is:

| rule | chunks of an answer end at tokens | engines |
| --- | --- | --- |
| ``alone`` | 1, 1 + N, 1 + 2N, ... | vLLM from 0.12; SGLang from 0.5 on |
| ``counted`` | 1, N, 2N, ... | TensorRT-LLM |
| ``full`` | N, 2N, ... | SGLang before |

The last chunk ends with the answer, however few tokens it has.
"""

from typing import Annotated, Final, Literal

from cluster_specs.files.declared import Field
from simulator.engine_profiles.profile_section import ProfileSection, Source

FirstChunk = Literal["alone", "counted", "full"]
LONGEST_INTERVAL: Final = 1_000_000  # tokens; no answer is longer


class AnswerChunks(ProfileSection):
    """Tokens sent together by default, and the rule of the first ones; ``source`` says where the engine has it."""

    interval: Annotated[int, Field(ge=1, le=LONGEST_INTERVAL)] = 1
    first: FirstChunk
    source: Source
