"""What the images and audio of a workload become for a model: prompt tokens, once, and work of its encoder.

Items stand in front of the text of their prompt, one after the other, since traces do not say where. An encoder-decoder
has its items beside the prompt: the first decoder token needs them. One whose encoder reads text has its prompt there,
and a decoder that starts from one token.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from simulator.model.block import Block
from simulator.model.cells.cross_attention import CrossAttention
from simulator.model.encoder import Encoder
from simulator.model.item_rules import Clip, ItemSize
from simulator.model.spec import ModelSpec
from simulator.workload.items import EncoderItems, Media
from simulator.workload.workload import Workload

I64 = NDArray[np.int64]


def bind_workload(model: ModelSpec, workload: Workload) -> tuple[ModelSpec, Workload]:
    """Return the model as it serves ``workload``, and the workload with its images and audio as items of its encoder.

    Neither changes where there is nothing to encode. Raises ``UserError`` for images or audio that the model does not
    take, and for an encoder-decoder's requests that have none.
    """
    media = workload.media
    if model.encoder is not None and model.encoder.kind == "text":
        if media is not None:
            raise UserError(f"{workload.name}: has images or audio, {model.name} takes text alone")
        return _text_encoded(model, model.encoder, workload)
    if media is None or media.images + media.clips == 0:
        if model.is_encoder_decoder:
            raise UserError(
                f"{workload.name}: its requests have no audio, which {model.name} transcribes",
                hint="--audio-s 30 gives each one a clip of 30 s; traces state audio_s",
            )
        return model, replace(workload, media=None)
    loaded = model.with_tower()
    encoder = _encoder_for(loaded, workload, media)
    if workload.prefix is not None:
        raise UserError(
            f"{workload.name}: has prefix-block ids beside images or audio, whose place in the prompt they do not tell",
            hint="leave the ids out of the trace",
        )
    return loaded, _bound(workload, media, encoder, loaded)


def _encoder_for(model: ModelSpec, workload: Workload, media: Media) -> Encoder:
    """Return the encoder that takes the media of a workload; raises ``UserError`` where the model has none."""
    wanted = "images" if media.images else "audio"
    takes = None if model.encoder is None or model.encoder.rule is None else model.encoder.rule.takes
    given = {"image": media.images, "audio": media.clips}
    others = [name for name, count in given.items() if count and name != takes]
    if takes is not None and not others:
        assert model.encoder is not None
        return model.encoder
    name = model.checkpoint or model.name
    if takes is not None:
        raise UserError(
            f"{workload.name}: its requests have {'images' if others[0] == 'image' else 'audio'}, {name} takes "
            f"{'images' if takes == 'image' else 'audio'} alone"
        )
    if model.left_out:
        raise UserError(
            f"{workload.name}: its requests have {wanted}, but the {' and the '.join(model.left_out)} of {name} cannot "
            "be simulated: its config has no section for it, or towers of this architecture are not modelled",
            hint="give the checkpoint's whole config.json; docs/guides/serve_images_and_audio.md lists the towers",
        )
    raise UserError(
        f"{workload.name}: its requests have {wanted}, {name} takes text alone, as its config has no tower",
        hint="leave --images and --audio-s out, or give a config.json with the tower's section",
    )


def _bound(workload: Workload, media: Media, encoder: Encoder, model: ModelSpec) -> Workload:
    sizes = _sizes(workload, media, encoder)
    offsets = media.clip_offsets if isinstance(encoder.rule, Clip) else media.image_offsets
    counts = np.diff(offsets)
    owner = np.repeat(np.arange(len(counts)), counts)
    spans = sizes[:, 3]
    before = np.cumsum(spans) - spans
    first = np.zeros(len(counts), dtype=np.int64)
    has_items = counts > 0
    first[has_items] = before[offsets[:-1][has_items]]
    start = before - first[owner]
    added = np.zeros(len(counts), dtype=np.int64)
    np.add.at(added, owner, spans)
    prompts = _prompts(workload, media, added)
    if model.is_encoder_decoder:
        _check_one_clip(workload, counts, model)
        start, spans = np.zeros_like(start), np.ones_like(spans)
    items = EncoderItems(
        offsets=offsets.astype(np.int64),
        start=start,
        end=start + spans,
        embeds=sizes[:, 2],
        tokens=sizes[:, 0],
        pairs=sizes[:, 1],
    )
    return replace(
        workload, prompt_tokens=prompts, media=None, items=items, notes=(*workload.notes, _note(items, added, encoder))
    )


def _note(items: EncoderItems, added: I64, encoder: Encoder) -> str:
    """Say what the items became."""
    n, what = len(items), "images" if encoder.kind == "vision" else "audio clips"
    if not added.any():
        return f"{n:,} {what} of {int(items.tokens.max()):,} encoder tokens at most, beside the decoder's prompts"
    return (
        f"{n:,} {what} become {int(added.sum()):,} prompt tokens, {added.sum() / n:,.0f} each, and "
        f"{items.tokens.sum() / n:,.0f} tokens of the encoder; they stand in front of the text"
    )


def _prompts(workload: Workload, media: Media, added: I64) -> I64:
    """Return the prompts with the tokens of their items in them once."""
    if not media.are_counted:
        return workload.prompt_tokens + added
    short = workload.prompt_tokens <= added
    if short.any():
        i = int(np.argmax(short))
        raise UserError(
            f"{workload.name}: request {i + 1} has prompt_tokens {workload.prompt_tokens[i]} with its images or audio, "
            f"which alone become {added[i]} tokens of this model",
            hint="prompt_counts_media is for prompts counted by this model; leave it out where they count text alone",
        )
    return workload.prompt_tokens


def _sizes(workload: Workload, media: Media, encoder: Encoder) -> I64:
    """Return tokens, pairs, rows and prompt tokens of every item, [items, 4]."""
    rule = encoder.rule
    assert rule is not None
    if isinstance(rule, Clip):
        sized = _named(workload, lambda: [rule.clip(seconds) for seconds in media.audio_s.tolist()])
    else:
        of = lru_cache(maxsize=None)(rule.image)
        sizes = zip(media.width.tolist(), media.height.tolist(), strict=True)
        sized = _named(workload, lambda: [of(width, height) for width, height in sizes])
    return np.array([(one.tokens, one.pairs, one.embeds, one.prompt) for one in sized], dtype=np.int64).reshape(-1, 4)


def _named(workload: Workload, size: Callable[[], list[ItemSize]]) -> list[ItemSize]:
    """Size items, naming the workload in what is refused."""
    try:
        return size()
    except UserError as refusal:
        raise UserError(f"{workload.name}: {refusal}", hint=refusal.hint) from None


def _check_one_clip(workload: Workload, counts: I64, model: ModelSpec) -> None:
    if (counts != 1).any():
        i = int(np.argmax(counts != 1))
        raise UserError(
            f"{workload.name}: request {i + 1} has {counts[i]} audio clips, {model.name} transcribes one per request"
        )


def _text_encoded(model: ModelSpec, encoder: Encoder, workload: Workload) -> tuple[ModelSpec, Workload]:
    """Move prompts to the encoder; cross attention is priced over the mean one."""
    if workload.items is not None:
        return model, workload
    tokens = workload.prompt_tokens
    if (longest := int(tokens.max(initial=1))) > encoder.tokens:
        raise UserError(
            f"{workload.name}: has a prompt of {longest} tokens, the encoder of {model.name} takes {encoder.tokens}"
        )
    mean = max(1, round(workload.mean_prompt_tokens))
    n = len(workload)
    items = EncoderItems(
        offsets=np.arange(n + 1),
        start=np.zeros(n, dtype=np.int64),
        end=np.ones(n, dtype=np.int64),
        embeds=tokens,
        tokens=tokens,
        pairs=tokens**2,
    )
    note = (
        f"prompts go to the encoder of {model.name}, whose decoder starts from one token; cross attention over {mean}"
    )
    bound = replace(workload, prompt_tokens=np.ones_like(tokens), items=items, notes=(*workload.notes, note))
    return replace(model, unique_blocks=tuple(_attending_to(block, mean) for block in model.unique_blocks)), bound


def _attending_to(block: Block, tokens: int) -> Block:
    return Block(
        cells=tuple(
            replace(cell, encoder_tokens=tokens) if isinstance(cell, CrossAttention) else cell for cell in block.cells
        )
    )
