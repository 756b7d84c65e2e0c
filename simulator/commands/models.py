"""`apex models`: which models are bundled, and what a model is made of."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_specs.command_line import Command, refuse_given, strict_json
from simulator.commands.serving_options import extension_option

if TYPE_CHECKING:
    from simulator.model.spec import ModelSpec


@click.command(cls=Command)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@extension_option
@click.pass_context
def models(context: click.Context, /, *, name: str | None, as_json: bool, extensions: tuple[Path, ...]) -> None:
    """List bundled models, or show the model NAME (bundled, a Hugging Face id, or a config.json).

    Shown are its parameters, KV cache and every kind of layer.
    """
    from simulator.model.extension import load_extensions, refuse_unused
    from simulator.model.load_model import bundled_models, load_model

    if name is None:
        refuse_given(context, "extensions", because="without NAME the bundled models are listed")
    loaded = load_extensions(extensions)
    if name is not None:
        spec = load_model(name)
        refuse_unused(loaded, spec)
        click.echo(strict_json(_summary(spec)) if as_json else _describe(spec))
        return
    specs = [load_model(bundled) for bundled in bundled_models()]
    click.echo(strict_json([_totals(spec) for spec in specs]) if as_json else _table(specs))


def _table(specs: "list[ModelSpec]") -> str:
    head = f"{'model':20} {'params':>10} {'active':>10} {'KV/token':>10} {'layers':>6} {'context':>8}  weights"
    rows = [
        f"{spec.name:20} {_count(spec.parameters()):>10} {_count(spec.active_parameters()):>10} "
        f"{spec.kv_bytes_per_token() / 1024:>6.1f} KiB {spec.num_layers:>6} {spec.max_position:>8}  "
        f"{spec.quantisation or spec.dtype}"
        for spec in specs
    ]
    return "\n".join([head, *rows])


def _totals(spec: "ModelSpec") -> dict[str, Any]:
    return {
        "name": spec.name,
        "architecture": spec.architecture,
        "parameters": spec.parameters(),
        "active_parameters": spec.active_parameters(),
        "kv_bytes_per_token": spec.kv_bytes_per_token(),
        "layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "vocab_size": spec.vocab_size,
        "max_position": spec.max_position,
        "dtype": spec.dtype,
        "quantisation": spec.quantisation,
        "tied_embeddings": spec.tied_embeddings,
    }


def _summary(spec: "ModelSpec") -> dict[str, Any]:
    from simulator.model.cell import kind_of
    from simulator.plan.plan import Plan

    plan = Plan()
    ((*blocks,),) = spec.stage_blocks(Plan())
    return _totals(spec) | {
        "weight_bytes": sum(spec.stage_weight_bytes(plan)),
        "left_out": list(spec.left_out),
        "notes": list(spec.notes),
        "blocks": [
            {
                "layers": count,
                "cells": [
                    {
                        "kind": kind_of(cell),
                        "parameters": cell.parameters(),
                        "active_parameters": cell.active_parameters(),
                        "weight_bytes": cell.weight_bytes(plan),
                        "kv_bytes_per_token": cell.kv_bytes_per_token(plan),
                        "window": call.decode.window if (call := cell.attention(plan)) is not None else 0,
                    }
                    for cell in block.cells
                ],
            }
            for block, count in blocks
        ],
    }


def _describe(spec: "ModelSpec") -> str:
    summary, formats = _summary(spec), ", ".join(sorted(spec.schemes)) or spec.dtype
    lines = [
        f"{spec.name} ({spec.architecture})",
        f"  parameters     {_count(spec.parameters())} ({_count(spec.active_parameters())} active per token)",
        f"  weights        {summary['weight_bytes'] / 2**30:.2f} GiB as {formats}",
        f"  KV cache       {spec.kv_bytes_per_token()} bytes per token over {spec.num_layers} layers",
        f"  hidden, vocab  {spec.hidden_size}, {spec.vocab_size}"
        f"{' (embedding and head tied)' if spec.tied_embeddings else ''}",
        f"  context        {spec.max_position} tokens{_scaling(spec)}",
    ]
    lines += [f"  left out       {part}" for part in spec.left_out]
    lines += [f"  note           {note}" for note in spec.notes]
    for block in summary["blocks"]:
        lines.append(f"  {block['layers']} layers of")
        for cell in block["cells"]:
            active = cell["active_parameters"]
            notes = [f"{_count(active)} active"] if active != cell["parameters"] else []
            if cell["kv_bytes_per_token"]:
                notes.append(f"{cell['kv_bytes_per_token']:g} KV bytes per token")
            if cell["window"]:
                notes.append(f"window {cell['window']}")
            lines.append(f"    {cell['kind']:18} {_count(cell['parameters']):>10}  {', '.join(notes)}".rstrip())
    return "\n".join(lines)


def _scaling(spec: "ModelSpec") -> str:
    """Say which rope scaling engine versions may lengthen the context by."""
    found = [f"{item.kind} x {item.factor:g}" for item in spec.positions.scalings if item.factor > 1]
    return f", and {', '.join(found)} where the engine version counts it" if found else ""


def _count(number: int) -> str:
    """Write a parameter count as people say it."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)
