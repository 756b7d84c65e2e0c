"""Keys of real configs that change neither what a layer computes nor what it holds, as far as costs go.

A key that no reader asks for and that is not among these is named in a note: it may change the computation.
"""

import re
from collections.abc import Iterable
from typing import Final

# Files and tools; tokens; training; constants that scale, clip or cap; rotations, which all cost the same.
_HARMLESS: Final = re.compile(
    r"""
    _name_or_path | architectures | auto_map | custom_pipelines | transformers\.js_config | transformers_version
    | model_type | name | max_length | tokenizer_class | unsloth_.* | license | description | language | dtype
    | torch_dtype | attn_implementation | summary_.* | dense_act_fn | begin_suppress_tokens | classifier_proj_size
    | mask_.* | median_filter_width | relative_attention_max_distance | use_parallel_residual
    | intermediate_size_mlp | max_window_layers | _?sliding_window_pattern | qk_head_dim | .*_norm_min
    | layer_norm_elementwise_affine
    | _attn_implementation.* | use_cache | use_flash_attn.* | is_decoder | is_encoder_decoder | is_composition
    | is_causal | return_dict | output_.* | problem_type | torchscript | use_bfloat16 | id2label | label2id | num_labels
    | chat_template.* | task_specific_params | prefix | tf_legacy_loss | keys_to_ignore_at_inference | seed | fp32.*
    | .*token_id | .*token_ids | .*token_index | .*_token | image_size | video_.*
    | .*dropout.* | .*_pdrop | initializer_.* | init_.* | .*_init_.* | .*aux_loss.* | .*_jitter.* | .*_loss.*
    | gradient_checkpointing.* | pretraining_tp | ep_size | .*_eps | .*epsilon | seq_aux | moe_layer_use_.*
    | .*_scaling_factor | .*_scaling | .*_multiplier | .*_scale | .*softcap.* | .*_clip.* | .*_clamp.* | .*logit_cap.*
    | query_pre_attn_scalar | residual_.* | mup_.* | dim_model_base | scale_.* | swiglu_limit.* | swiglu_alpha
    | rope_.* | rotary_.* | partial_rotary_factor.* | .*_rope_theta | mrope.* | .*position_embedding_type
    | original_max_position_embeddings | model_max_length | seq_length | use_dynamic_ntk | use_logn_attn | yarn.*
    | attn_scale | floor_scale | attn_temperature_tuning | longrope.* | no_rope_.* | use_rope_.*
    | norm_topk_prob | norm_expert_weight | n_group | topk_group | topk_method | num_expert_group | scoring_func
    | score_func.* | router_.* | route_norm | moe_router_.* | use_grouped_topk | output_router_logits | need_fp32_gate
    | decoder_sparse_step | for_llm_class | .*_softmax.* | use_bidirectional_attention
    | num_nextn_predict_layers | num_mtp_.* | mtp_.* | n_predict | .*_mtp_.*
    | vision_.* | visual.* | audio_.* | .*vision.* | img_.* | image_.* | mm_.* | projector_.* | multimodal_.*
    | spatial_merge_size | .*projector.* | patch_size | downsample_ratio | dynamic_image_size | ps_version
    | max_dynamic_patch | min_dynamic_patch | use_thumbnail | select_layer | template | force_image_size | pad2square
    | expand | mamba_hidden_act | norm_before_gate | time_step_.* | rescale_prenorm_residual | use_mamba_kernels
    | num_logits_to_keep | moe_shared_expert_overlap
    | system_message | hidden_size_per_layer_input | tie_.*
    """,
    re.VERBOSE,
)
_MOST_NAMED: Final = 8


def unread_note(keys: Iterable[str]) -> str | None:
    """Return the note that names the keys among ``keys`` that are not harmless; None when all are."""
    unknown = [key for key in keys if _HARMLESS.fullmatch(key) is None]
    if not unknown:
        return None
    named = ", ".join(key[:40] for key in unknown[:_MOST_NAMED])
    more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
    return f"keys of the config that are not read, taken to change no cost: {named}{more}"
