"""What LLMServingSim's folders say of a table: the device, the model's sizes, the ranks and the number formats.

Tables stand under ``<hardware>/<organisation>/<model>/[<variant>/]tp<N>/``, newer ones beside a ``meta.yaml``; the
repository keeps each model's config in ``configs/model``.
"""

import re
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.reading import read_document
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.importers.device_names import device_name

# Folders of hardware that are not named as its driver does.
_HARDWARE: Final = {
    "A6000": "rtx-a6000",
    "H100": "h100-sxm",  # its lm_head reads 2.87 TB/s: the SXM board
    "RTX3090": "rtx-3090",
    "RTX4090": "rtx-4090",
    "RTXPRO6000": "rtx-pro-6000",
}
# Number formats of weights and KV by variant.
_VARIANTS: Final = {
    "bf16": ("bf16", "bf16"),
    "fp16": ("fp16", "fp16"),
    "bf16-kvfp8": ("bf16", "fp8"),
    "fp16-kvfp8": ("fp16", "fp8"),
}
_MOST_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What shapes follow from, of a whole model."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inter: int
    vocab: int
    experts: int
    topk: int
    expert_inter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One tp folder: what it was measured on, of which model and in which formats."""

    device: str
    sizes: Sizes
    ranks: int
    dtype: str
    kv_dtype: str
    framework: str | None
    run_id: str
    is_older: bool

    @property
    def heads(self) -> tuple[int, int]:
        """Query and KV heads of a rank."""
        return self.sizes.heads // self.ranks, max(self.sizes.kv_heads // self.ranks, 1)


def bundle_of(path: Path, device: str | None, config: Path | None) -> tuple[str, Bundle | None]:
    """Read what the folders on the way to a table say; None with the reason where it has no place here."""
    folders = path.resolve().parents
    meta = _meta(folders[1] / "meta.yaml")
    is_older = not meta
    variant = "fp16" if is_older else folders[1].name
    shift = 0 if is_older else 1
    model, hardware = f"{folders[2 + shift].name}/{folders[1 + shift].name}", folders[3 + shift].name
    if variant not in _VARIANTS:
        return f"variant {variant} has no counterpart", None
    if device is None:
        try:
            device = device_name(meta["gpu"]) if "gpu" in meta else device_name(_HARDWARE.get(hardware, hardware))
        except UserError:
            return f"device {meta.get('gpu', hardware)} is not known here; name it with --device", None
    sizes = _sizes_of(path, model, config)
    ranks = int(folders[0].name[2:])
    if not ranks or sizes.heads % ranks or sizes.inter % ranks or sizes.vocab % ranks:
        raise UserError(
            f"{path}: {ranks} ranks do not share the {sizes.heads} heads, {sizes.inter} filters, {sizes.vocab} words "
            f"of {shown(model)}",
            hint="name the config.json of the model that was measured with --config",
        )
    dtype, kv_dtype = _VARIANTS[variant]
    version = meta.get("vllm_version")
    return "", Bundle(
        device=device,
        sizes=sizes,
        ranks=ranks,
        dtype=dtype,
        kv_dtype=kv_dtype,
        framework=f"vllm-{version}" if version else None,
        run_id=f"llmservingsim-{device}-{model.replace('/', '-')}-{variant}-tp{ranks}",
        is_older=is_older,
    )


def _meta(path: Path) -> dict[str, str]:
    """Read the plain keys of a bundle's ``meta.yaml``; empty for the older tables, which have none."""
    if not path.is_file():
        return {}
    text = read_document(path, most_bytes=_MOST_BYTES).decode("utf-8", errors="replace")
    pairs = re.findall(r"^(\w+):[ \t]+(\S.*?)[ \t]*$", text, flags=re.MULTILINE)
    return {key: value.strip("'\"") for key, value in pairs}


def _sizes_of(path: Path, model: str, config: Path | None) -> Sizes:
    """Read the model's sizes from ``config``, else from the repository the table stands in."""
    if config is None:
        kept = [folder / "configs" / "model" / f"{model}.json" for folder in path.resolve().parents]
        config = next((place for place in kept if place.is_file()), None)
    if config is None:
        raise UserError(
            f"{path}: the sizes of {shown(model)} are not in the table, and no configs/model above it has them",
            hint="keep the tables in LLMServingSim's repository, or name the model's config.json with --config",
        )
    values = parse_json(read_document(config, most_bytes=_MOST_BYTES), str(config))
    if not isinstance(values, dict):
        raise UserError(f"{config}: is not a config.json: {shown(values)}", hint="name the model's config.json")

    def size(*keys: str, default: int | None = None) -> int:
        value = next((values[key] for key in keys if values.get(key) is not None), default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise UserError(f"{config}: {keys[0]} is {shown(value)}, must be a whole number", hint="fix the config")
        return value

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    if not hidden or not heads:
        raise UserError(f"{config}: hidden_size and num_attention_heads must be above 0", hint="fix the config")
    inter = size("intermediate_size")
    return Sizes(
        hidden=hidden,
        heads=heads,
        kv_heads=size("num_key_value_heads", default=heads),
        head_dim=size("head_dim", default=hidden // heads),
        inter=inter,
        vocab=size("vocab_size"),
        experts=size("num_experts", "num_local_experts", default=0),
        topk=size("num_experts_per_tok", default=0),
        expert_inter=size("moe_intermediate_size", default=inter),
    )
