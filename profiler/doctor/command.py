"""`apex doctor`: looks at the machine without changing it and says what would spoil a measurement, each with its fix.

Exit code 0: nothing found that makes measurements wrong or impossible (warnings allowed; a machine without a GPU is
fine). Exit code 1: at least one failure. Clocks are touched only when asked for: ``--try-lock`` locks and restores,
``--reset-clocks`` gives back a lock that a killed run left behind.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from cluster_specs.command_line import Command, strict_json

if TYPE_CHECKING:
    from profiler.doctor.findings import Finding
    from profiler.instruments.nvml import Nvml
    from profiler.instruments.topology import Topology

_MARKS: Final = {"ok": "ok", "info": "--", "warning": "!!", "failure": "XX"}


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--try-lock", is_flag=True, help="Lock each GPU's clock once and restore it, to know whether it works.")
@click.option("--reset-clocks", is_flag=True, help="Give back clocks that a killed run left locked, then look.")
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool, try_lock: bool, reset_clocks: bool) -> None:
    """Check whether this machine can be measured well.

    Looks at GPUs, driver, permissions, clocks, topology, versions and stability; works without a GPU. Exit code 0:
    nothing makes measurements wrong or impossible. Exit code 1: at least one failure (XX).
    """
    findings, topology = examine(try_lock=try_lock, reset_clocks=reset_clocks)
    if as_json:
        click.echo(strict_json(_to_json(findings, topology)))
    else:
        for line in _to_lines(findings):
            click.echo(line)
    ctx.exit(1 if any(finding.severity == "failure" for finding in findings) else 0)


def examine(*, try_lock: bool = False, reset_clocks: bool = False) -> "tuple[list[Finding], Topology]":
    """Look at the whole machine; never raises for what it finds."""
    from profiler.doctor.findings import Finding
    from profiler.instruments.nvml import Nvml, NvmlError

    try:
        nvml = Nvml()
    except NvmlError as error:
        text = f"no GPU is reachable: {error}; the CPU can be profiled, bundled GPU data needs no GPU"
        finding = Finding(topic="driver", severity="warning", text=text, fix=error.hint)
        return _examine(None, [finding], try_lock=try_lock, reset_clocks=reset_clocks)
    with nvml:
        return _examine(nvml, [], try_lock=try_lock, reset_clocks=reset_clocks)


def _examine(
    nvml: "Nvml | None", findings: "list[Finding]", *, try_lock: bool, reset_clocks: bool
) -> "tuple[list[Finding], Topology]":
    from profiler.doctor.findings import Finding
    from profiler.doctor.gpu_checks import check_gpu, check_topology
    from profiler.doctor.host_checks import check_host
    from profiler.doctor.software_checks import check_software
    from profiler.instruments.nvml import NvmlError
    from profiler.instruments.topology import read_topology

    gpus = []
    if nvml is not None:
        try:
            gpus = nvml.gpus()
            text = f"NVIDIA driver {nvml.driver_version()}, CUDA up to {nvml.cuda_version()}, {len(gpus)} GPUs"
            findings.append(Finding(topic="driver", severity="ok", text=text))
        except NvmlError as error:
            fix = error.hint or "look for Xid messages in the kernel log; reset the GPU or reboot"
            findings.append(Finding(topic="driver", severity="failure", text=str(error), fix=fix))
    for index, gpu in enumerate(gpus):
        if reset_clocks:
            try:
                gpu.reset_sm_clock()
                findings.append(Finding(topic=f"gpu {index}", severity="ok", text="SM clock given back to the driver"))
            except NvmlError as error:
                text = f"the SM clock cannot be reset: {error}"
                findings.append(Finding(topic=f"gpu {index}", severity="failure", text=text, fix=error.hint))
        findings += check_gpu(index, gpu, try_lock=try_lock)
    topology = read_topology(gpus)
    findings += check_topology(gpus, topology)
    findings += check_software(nvml, len(gpus))
    findings += check_host()
    return findings, topology


def _to_json(findings: "Sequence[Finding]", topology: "Topology") -> dict[str, object]:
    from dataclasses import asdict

    severities = [finding.severity for finding in findings]
    return {
        "findings": [asdict(finding) for finding in findings],
        "topology": asdict(topology),
        "failures": severities.count("failure"),
        "warnings": severities.count("warning"),
    }


def _to_lines(findings: "Sequence[Finding]") -> list[str]:
    width = max(len(finding.topic) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.severity]}  {finding.topic:<{width}}  {finding.text}")
        if finding.fix:
            lines.append(f"    {'':<{width}}  fix: {finding.fix}")
    severities = [finding.severity for finding in findings]
    lines.append(f"failures: {severities.count('failure')}, warnings: {severities.count('warning')}")
    return lines
