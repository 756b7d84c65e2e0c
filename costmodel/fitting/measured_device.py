"""Which measured device to fit, and the cluster whose links its collectives ran on."""

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.load import bundled_clusters, load_cluster
from profiles_db.store import Store


def choose_device(store: Store, device: str | None) -> str:
    """Return the named device, or the only one measured; raises ``UserError``."""
    known = store.devices()
    if device is not None:
        if device not in known:
            raise UserError(
                f"{store.root}: no measurements of device {device!r}, only of {', '.join(known) or 'no device'}",
                hint="measure it with `apex profile`, or `apex import` measurements of it",
            )
        return device
    if len(known) != 1:
        raise UserError(
            f"{store.root}: holds measurements of {len(known)} devices: {', '.join(known) or 'none'}",
            hint="name one with --device" if known else "measure with `apex profile`, or `apex import` some",
        )
    return known[0]


def choose_cluster(device: str, cluster: str | None) -> ClusterSpec:
    """Return the named cluster, or the bundled one of the device with the most links; raises ``UserError``."""
    if cluster is not None:
        spec = load_cluster(cluster)
        if spec.device.name != device:
            raise UserError(
                f"cluster {spec.name} has device {spec.device.name}, the measurements are of {device}",
                hint="name a cluster of the measured device with --cluster",
            )
        return spec
    specs = [spec for spec in map(load_cluster, bundled_clusters()) if spec.device.name == device]
    if not specs:
        raise UserError(
            f"no bundled cluster has device {device}", hint="describe one in a TOML file and name it with --cluster"
        )
    return max(specs, key=lambda spec: (len(spec.levels), -spec.num_devices))
