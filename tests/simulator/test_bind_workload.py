"""Images and audio of a workload, bound to a model: in the prompt once, and refused where nothing takes them."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.model.bind_workload import bind_workload
from simulator.model.load_model import from_hf_config, load_model
from simulator.plan.plan import Plan
from simulator.workload.items import Media
from simulator.workload.parse import parse_workload
from simulator.workload.workload import PrefixBlocks, Workload

T5 = {
    "model_type": "t5",
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_heads": 8,
    "num_layers": 6,
    "vocab_size": 32128,
}


def _workload(images: list[list[tuple[int, int]]], clips: list[list[float]] | None = None, **more: bool) -> Workload:
    n = len(images)
    media = Media.of_requests(images, clips or [[]] * n, **more)
    prompts = np.full(n, 2000)
    return Workload(
        name="w", arrival_s=np.arange(n) * 1.0, prompt_tokens=prompts, output_tokens=np.full(n, 5), media=media
    )


def test_image_tokens_are_in_the_prompt_once() -> None:
    """On top of text, or within prompts that count them already; either way items fill the head of the prompt."""
    model = load_model("qwen2.5-vl-7b")
    images = [[(1024, 1024), (280, 280)], [], [(280, 560)]]
    served, bound = bind_workload(model, _workload(images))
    assert bound.prompt_tokens.tolist() == [2000 + 1369 + 100, 2000, 2000 + 200]
    counted = bind_workload(model, _workload(images, are_counted=True))[1]
    assert counted.prompt_tokens.tolist() == [2000, 2000, 2000]
    for one in (bound, counted):
        assert one.media is None
        assert one.items is not None
        assert one.items.offsets.tolist() == [0, 2, 2, 3]
        assert one.items.start.tolist() == [0, 1369, 0]
        assert one.items.end.tolist() == [1369, 1469, 200]
        assert one.items.tokens.tolist() == [4 * 1369, 400, 800]
    assert served.encoder is not None
    assert bind_workload(served, bound) == (served, bound)


def test_prompts_that_claim_to_count_their_images_must_hold_them() -> None:
    """A prompt of 2,000 tokens cannot contain two images of 1,369."""
    images = [[(1024, 1024), (1024, 1024)]]
    with pytest.raises(UserError, match=r"request 1 has prompt_tokens 2000 .* alone become 2738 tokens"):
        bind_workload(load_model("qwen2.5-vl-7b"), _workload(images, are_counted=True))


def test_nothing_changes_without_images() -> None:
    """A model keeps its tower left out for requests of text, those of a column of empty lists included."""
    model = load_model("qwen2.5-vl-7b")
    assert bind_workload(model, _workload([[], []]))[0] is model


def test_what_no_encoder_takes_is_refused() -> None:
    """Images for a text model or a tower that is not there, audio for a vision model, audio for nobody."""
    image, audio = _workload([[(64, 64)]]), _workload([[]], [[3.0]])
    for name, workload, said in (
        ("llama-3.1-8b", image, "requests have images, llama-3.1-8b takes text alone"),
        ("llama-3.1-8b", audio, "requests have audio, llama-3.1-8b takes text alone"),
        ("qwen2.5-vl-7b", audio, "requests have audio, qwen2.5-vl-7b takes images alone"),
        ("whisper-large-v3", image, "requests have images, whisper-large-v3 takes audio alone"),
        ("gemma-3-4b", image, "takes text alone, as its config has no tower"),
        ("kimi-k2.5", image, "the vision tower of kimi-k2.5 cannot be simulated"),
        ("whisper-large-v3", parse_workload("synthetic:isl=4,osl=4,n=3"), "no audio, which whisper-large-v3"),
    ):
        with pytest.raises(UserError, match=said):
            bind_workload(load_model(name), workload)
    prefix = PrefixBlocks(block_tokens=16, offsets=np.array([0, 1]), ids=np.array([7]))
    with pytest.raises(UserError, match="prefix-block ids beside images"):
        bind_workload(load_model("qwen2.5-vl-7b"), replace(image, prefix=prefix))
    with pytest.raises(UserError, match=r"w: image of 9000x3: .* 200 times"):
        bind_workload(load_model("qwen2.5-vl-7b"), _workload([[(9000, 3)]]))


def test_whisper_encodes_beside_the_prompt() -> None:
    """A clip is 1,500 encoder tokens and no prompt token, needed by the first one; two clips are two requests."""
    model = load_model("whisper-large-v3")
    _, bound = bind_workload(model, _workload([[], []], [[3.0], [30.0]]))
    assert bound.items is not None
    assert bound.prompt_tokens.tolist() == [2000, 2000]
    assert [getattr(bound.items, name).tolist() for name in ("start", "end", "embeds", "tokens")] == [
        [0, 0],
        [1, 1],
        [1500, 1500],
        [1500, 1500],
    ]
    with pytest.raises(UserError, match="request 2 has 2 audio clips"):
        bind_workload(model, _workload([[], []], [[3.0], [3.0, 4.0]]))


def test_t5_encodes_the_prompt_itself() -> None:
    """Its decoder starts from one token; cross attention is over the mean prompt; longer than it takes is refused."""
    model = from_hf_config(T5, name="t5-small")
    served, bound = bind_workload(model, parse_workload("synthetic:isl=300,osl=4,n=3"))
    assert bound.items is not None
    assert bound.prompt_tokens.tolist() == [1, 1, 1]
    assert bound.items.tokens.tolist() == [300, 300, 300]
    call = served.unique_blocks[1].cells[1].attention(Plan())
    assert call is not None
    assert call.fixed_kv_tokens == 300
    with pytest.raises(UserError, match="prompt of 600 tokens, the encoder of t5-small takes 512"):
        bind_workload(model, parse_workload("synthetic:isl=600,osl=4,n=3"))
