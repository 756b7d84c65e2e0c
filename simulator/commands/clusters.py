"""`apex clusters`: what hardware is bundled, and what one cluster or device holds."""

from typing import TYPE_CHECKING

import click

from cluster_specs.command_line import Command, strict_json

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec


@click.command(cls=Command)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def clusters(name: str | None, as_json: bool) -> None:
    """List bundled clusters and devices, or show the cluster NAME (bundled, sized like h100-sxm-4, or a TOML path)."""
    from cluster_specs.load import bundled_clusters, bundled_devices, load_cluster

    if name is not None:
        cluster = load_cluster(name)
        click.echo(strict_json(cluster.model_dump(by_alias=True)) if as_json else _describe(cluster))
        return
    if as_json:
        click.echo(strict_json({"clusters": bundled_clusters(), "devices": bundled_devices()}))
        return
    click.echo("\n".join(bundled_clusters()))
    click.echo(f"devices: {', '.join(bundled_devices())}", err=True)
    click.echo("any other size: <device>-<count> or <device>-<nodes>x<count>, or a TOML file", err=True)


def _describe(cluster: "ClusterSpec") -> str:
    device, clock = cluster.device, cluster.device.clock
    lines = [
        f"{cluster.name}: {cluster.nodes} x {cluster.devices_per_node} {device.title}",
        f"  memory     {device.memory_bytes / 2**30:.2f} GiB at {device.memory_bytes_per_s / 1e12:.3g} TB/s",
        "  peak       "
        + ", ".join(f"{dtype} {rate / 1e12:.4g} TFLOP/s" for dtype, rate in device.peak_flop_per_s.items()),
        f"  clock      {clock.base_mhz:g}-{clock.max_mhz:g} MHz, peaks at {clock.reference_mhz:g}",
        f"  power      {device.idle_w:g} W idle, {device.tdp_w:g} W TDP"
        + ("" if device.power_cap_w is None else f", capped at {device.power_cap_w:g} W"),
    ]
    if cluster.hosts_per_node > 1:
        lines.append(f"  node       {cluster.hosts_per_node} hosts whose devices share {cluster.levels[0].name}")
    lines += [
        f"  {level.name:10} {level.group_size} devices, {level.bandwidth_bytes_per_s / 1e9:.4g} GB/s per device and "
        f"direction, {level.latency_s * 1e6:.3g} us"
        + (
            ""
            if level.peer_to_peer
            else f"; no peer-to-peer access: {level.bytes_per_s / 1e9:.4g} GB/s over host memory"
        )
        for level in cluster.levels
    ]
    price = cluster.usd_per_device_hour
    lines.append(f"  constants  {device.constants_text}")
    lines.append(f"  price      {'not stated' if price is None else f'{price:g} USD per device-hour'}")
    return "\n".join(lines)
