"""Vision towers in front of a text decoder: SigLIP (Gemma 3) and CLIP (LLaVA) transformers over image patches."""

from dataclasses import replace
from typing import Final

from simulator.model.architectures import architecture, from_hf_config
from simulator.model.encoder import Encoder
from simulator.model.families.multimodal_text import nested_decoder
from simulator.model.families.pixtral_vision import PIXTRAL_DEFAULTS, pixtral_tower
from simulator.model.families.tower_block import tower_block
from simulator.model.hf_config import HfConfig
from simulator.model.item_rules import FixedImage, ImageRule
from simulator.model.linear import Linear, WeightFormat
from simulator.model.norm import Norm
from simulator.model.spec import ModelSpec

# What the Hugging Face config classes assume for keys a nested config leaves out.
SIGLIP_DEFAULTS: Final = {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3}
_CLIP_DEFAULTS: Final = {"hidden_act": "quick_gelu", "num_channels": 3}


@architecture("llava")
def read_llava(config: HfConfig, name: str) -> ModelSpec:
    """Any supported text decoder behind a CLIP tower whose second-to-last layer feeds a two-matrix projector.

    A Pixtral tower is left out of memory until requests hold images; behind any other stands the decoder alone.
    """
    vision = config.section("vision_config", _CLIP_DEFAULTS)
    text = nested_decoder(config, "text_config", "llama")
    if text is None or vision is None:
        raise config.fault("text_config" if text is None else "vision_config", "an object")
    decoder = from_hf_config(text, name=name)
    kind = vision.text("model_type", "clip_vision_model")
    if kind == "pixtral":
        pixtral = config.section("vision_config", PIXTRAL_DEFAULTS)
        assert pixtral is not None
        tower = pixtral_tower(pixtral, decoder, merge=1, bias=config.flag("multimodal_projector_bias", default=True))
        return replace(decoder, architecture="llava", left_out=("vision tower",), tower=tower)
    if kind != "clip_vision_model":
        return replace(decoder, architecture="llava", left_out=("vision tower",))
    if "quantization_config" in config:
        raise config.fault("quantization_config", "absent: quantised LLaVA checkpoints are not modelled")
    hidden, width = decoder.hidden_size, vision.integer("hidden_size")
    plain = WeightFormat(scheme=decoder.dtype)
    projector = (
        Linear(n=hidden, k=width, weights=plain, dtype=decoder.dtype, bias=True),
        Linear(n=hidden, k=hidden, weights=plain, dtype=decoder.dtype, bias=True),
    )
    patches = square_patches(vision)
    tower = vision_tower(
        vision,
        decoder.dtype,
        outputs=patches,
        rule=FixedImage(tokens=patches + 1, embeds=patches),
        projector=projector,
        class_token=True,
        patch_bias=False,
    )
    return replace(decoder, architecture="llava", encoder=tower)


def square_patches(config: HfConfig) -> int:
    """Count the patches of a square image."""
    image, patch = config.integer("image_size"), config.integer("patch_size")
    if image % patch:
        raise config.fault("patch_size", f"a divisor of image_size = {image}")
    return (image // patch) ** 2


def vision_tower(
    config: HfConfig,
    dtype: str,
    *,
    outputs: int,
    rule: ImageRule,
    projector: tuple[Linear, ...],
    class_token: bool,
    patch_bias: bool,
) -> Encoder:
    """Read a SigLIP or CLIP ``vision_config``; CLIP has a class token and a norm before the first layer."""
    width, patch, patches = config.integer("hidden_size"), config.integer("patch_size"), square_patches(config)
    norm, plain = Norm(kind="layernorm", width=width), WeightFormat(scheme=dtype)
    block = tower_block(
        config,
        norm,
        heads_key="num_attention_heads",
        width_key="hidden_size",
        inter=config.integer("intermediate_size"),
        dtype=dtype,
        has_bias=True,
        gated=False,
        has_rope=False,
    )
    tokens = patches + (1 if class_token else 0)
    pixels = config.integer("num_channels", 3) * patch * patch
    outer_norms = norm.parameters() * (2 if class_token else 1)
    return Encoder(
        kind="vision",
        dtype=dtype,
        unique_blocks=(block,),
        layers=(0,) * config.layers("num_hidden_layers"),
        tokens=tokens,
        outputs=outputs,
        merged=max(1, tokens // outputs),
        rule=rule,
        front=(Linear(n=width, k=pixels, weights=plain, dtype=dtype, bias=patch_bias),),
        projector=projector,
        other_parameters=tokens * width + outer_norms + (width if class_token else 0),
    )
