"""AWQ and GPTQ: 4- and 8-bit integer weights in groups, with the modules and rules that differ.

Sources: AutoAWQ (``w_bit`` and ``q_group_size`` are its own names), GPTQModel (``dynamic``), and how vLLM reads both
(``auto_awq``, ``auto_gptq``, ``utils/gptq_utils``).
"""

from typing import Final

from simulator.model.hf_config import HfConfig
from simulator.model.linear import WeightFormat
from simulator.model.quantisation.rules import Formats, Rule, head_rule, left_alone, matcher, refuse_unknown, uniform

_DYNAMIC_KEYS: Final = frozenset({"bits", "group_size", "sym", "desc_act", "damp_percent", "mse", "act_group_aware"})


def _integer_weights(
    section: HfConfig, bits: int, group: int, *, has_zero_points: bool, bits_key: str = "bits"
) -> WeightFormat:
    if bits not in {4, 8}:
        raise section.fault(bits_key, "4 or 8")
    if bits == 4:
        return WeightFormat(scheme="w4a16", group_size=group, group_bytes=0.5 if has_zero_points else 0.0)
    # One 16-bit scale per group instead of one per channel.
    return WeightFormat(scheme="w8a16", group_size=group, group_bytes=3.0 if has_zero_points else 2.0)


def read_awq(section: HfConfig) -> Formats:
    """Read AWQ under both spellings of its keys."""
    bits_key = "bits" if "bits" in section else "w_bit"
    group_key = "group_size" if "group_size" in section else "q_group_size"
    main = _integer_weights(
        section,
        section.integer(bits_key, 4),
        section.integer(group_key, 128, least=-1),
        has_zero_points=section.flag("zero_point", default=True),
        bits_key=bits_key,
    )
    head = main if section.flag("lm_head", default=False) else None
    return uniform(main, [*left_alone(section, "modules_to_not_convert"), head_rule(head)])


def read_gptq(section: HfConfig) -> Formats:
    """Read GPTQ, its module lists and its rules by expression; rules decide before lists."""
    bits, group = section.integer("bits", 4), section.integer("group_size", 128, least=-1)
    is_symmetric = section.flag("sym", default=True)
    main = _integer_weights(section, bits, group, has_zero_points=not is_symmetric)
    rules = _dynamic_rules(section, bits, group, is_symmetric=is_symmetric)
    rules += left_alone(section, "modules_to_not_convert")
    rules.append(head_rule(main if section.flag("lm_head", default=False) else None))
    converted = _names(section, "modules_in_block_to_quantize")
    if not converted:
        return uniform(main, rules)
    rules.append(Rule(matches=matcher(section, "modules_in_block_to_quantize", converted), format=main))
    return Formats(main=main, rules=tuple(rules))


def _dynamic_rules(section: HfConfig, bits: int, group: int, *, is_symmetric: bool) -> list[Rule]:
    """Read GPTQModel's ``dynamic``: ``-:`` leaves modules alone, ``+:`` or no sign gives them values of their own."""
    dynamic = section.section("dynamic")
    rules = []
    for pattern in () if dynamic is None else dynamic.keys():
        assert dynamic is not None
        matches = matcher(section, "dynamic", ["re:" + pattern.removeprefix("-:").removeprefix("+:")])
        if pattern.startswith("-:"):
            rules.append(Rule(matches=matches))
            continue
        changes = dynamic.section(pattern)
        if changes is None:
            raise dynamic.fault(pattern, "an object of what differs")
        refuse_unknown(changes, _DYNAMIC_KEYS, "a rule of dynamic")
        own = _integer_weights(
            changes,
            changes.integer("bits", bits),
            changes.integer("group_size", group, least=-1),
            has_zero_points=not changes.flag("sym", default=is_symmetric),
        )
        rules.append(Rule(matches=matches, format=own))
    return rules


def _names(section: HfConfig, key: str) -> list[str]:
    """Names in a list, or in a list of lists as GPTQ groups them."""
    value = section.raw(key)
    if value is None:
        return []
    flat = value if isinstance(value, list) else None
    if flat is not None and all(isinstance(item, list) for item in flat):
        flat = [name for item in flat for name in item]
    if flat is None or not all(isinstance(name, str) for name in flat):
        raise section.fault(key, "a list of names, or of lists of names")
    return flat
