"""Gemma 3: five local layers to one global, four norms per layer, qk-norm, GeGLU, tied embeddings by default."""

from simulator.model.architectures import architecture
from simulator.model.decoder import Decoder, layer_windows
from simulator.model.hf_config import HfConfig
from simulator.model.spec import Block, ModelSpec


@architecture("gemma3_text")
def read_gemma(config: HfConfig, name: str) -> ModelSpec:
    """Text decoder of Gemma 3."""
    return gemma_decoder(Decoder.read(config), name)


@architecture("gemma3")
def read_gemma_multimodal(config: HfConfig, name: str) -> ModelSpec:
    """Read ``text_config``; the vision tower is not part of the step cost."""
    text = config.section("text_config")
    if text is None:
        raise config.fault("text_config", "an object with the text decoder's keys")
    return gemma_decoder(Decoder.read(text, outer=config), name)


def gemma_decoder(decoder: Decoder, name: str) -> ModelSpec:
    """Blocks of a Gemma 3 text decoder."""
    windows = layer_windows(decoder.config, decoder.num_layers, pattern_default=6)

    def block(layer: int) -> Block:
        attention = decoder.attention(layer, window=windows[layer], qk_norm="head", post_norm=decoder.norm)
        return Block(cells=(attention, decoder.mlp(layer, post_norm=decoder.norm)))

    return decoder.assemble(name, block, tied_default=True)
