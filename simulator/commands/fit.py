"""`apex fit`: a thin shell over the library, which is told the kernels of the engine by its profile."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_specs.command_line import Command, check_outputs, refuse_given
from profiles_db.terminal import DB_OPTION, JSON_OPTION, opened

if TYPE_CHECKING:
    from costmodel.cost_model import CostModel
    from profiles_db.manifest import ShapeManifest
    from profiles_db.store import Store


@click.command(cls=Command)
@DB_OPTION
@click.option("--device", help="Device to fit (default: the only one that was measured).")
@click.option("--cluster", help="Cluster whose links the collectives ran on (default: the device's largest bundled).")
@click.option("--framework", help="Prefer rows of this engine, nearest version first, e.g. vllm-0.24.0.")
@click.option(
    "--prior",
    default="auto",
    show_default=True,
    help="Fit to start from where few points were measured: a file, a device with a bundled fit, or none.  auto: the"
    " device's own bundled fit, if any.",
)
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Say how far to trust a prefill and a decode step of these models; written by `apex shapes`.",
)
@click.option("--monotone", is_flag=True, help="Lower points that are slower than a larger call of the same shape.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write (DEVICE.fit.parquet).")
@click.option("--constants", is_flag=True, help="Print calibrated analytic constants as TOML; nothing is written.")
@JSON_OPTION
@click.pass_context
def fit(
    context: click.Context,
    /,
    *,
    db: Path | None,
    device: str | None,
    cluster: str | None,
    framework: str | None,
    prior: str,
    manifest: Path | None,
    monotone: bool,
    out: Path | None,
    constants: bool,
    as_json: bool,
) -> None:
    """Turn measurements into a fitted cost model, with its held-out error."""
    from cluster_specs.extras import require_extra
    from costmodel.fit_file.artefact import save_artefact
    from costmodel.fitted_costs import FittedCosts
    from costmodel.fitting.fit_device import fit_device
    from costmodel.fitting.measured_device import choose_cluster, choose_device
    from costmodel.fitting.prior import Prior
    from costmodel.fitting.report import fit_text, report_json
    from profiles_db.manifest import load_manifest
    from simulator.engine_profiles.kernels_of_engine import kernels_of_engine

    if constants:
        no_fit = "--constants prints TOML and fits nothing"
        refuse_given(context, "out", "prior", "manifest", "monotone", "as_json", because=no_fit)
    else:
        require_extra("fit", "scipy", "sklearn", what="apex fit")
    store = opened(db)
    chosen = choose_device(store, device)
    spec = choose_cluster(chosen, cluster)
    if constants:
        from costmodel.fitting.calibrate_constants import calibrate, constants_toml

        click.echo(constants_toml(calibrate(store, spec, framework=framework)), nl=False)
        return
    shapes = None if manifest is None else load_manifest(manifest)
    path = out or Path(f"{chosen}.fit.parquet")
    started_from = Prior.choose(prior, chosen)
    prior_file = started_from.path if started_from is not None else None
    check_outputs([path], [cluster, manifest, prior_file, *(file.path for file in store.iter_files())])
    wanted = framework or (started_from.framework if started_from is not None else "")
    engine = kernels_of_engine(wanted, spec.device)
    artefact = fit_device(
        store, chosen, spec, framework=framework, is_monotone=monotone, prior=started_from, engine=engine
    )
    said, facts = ("", {}) if shapes is None else _trust_in_steps(shapes, FittedCosts(artefact, spec), store, chosen)
    save_artefact(artefact, path)
    click.echo(report_json(artefact, facts) if as_json else f"{fit_text(artefact)}{said}")
    click.echo(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB", err=True)


def _trust_in_steps(
    shapes: "ShapeManifest", costs: "CostModel", store: "Store", device: str
) -> tuple[str, dict[str, Any]]:
    """Return how wrong the manifest's two steps may be and what ten more minutes would measure: as text, as facts."""
    from costmodel.compare.next_minutes import last_pace_per_s, next_minutes
    from costmodel.compare.step_errors import step_error_rows, step_verdict

    steps = step_error_rows(shapes, costs)
    pace_per_s = last_pace_per_s(store, device)
    if pace_per_s is None:
        return f"\n{step_verdict(steps)}", {"steps": steps, "next_minutes": None}
    more = next_minutes(shapes, costs, pace_per_s)
    return f"\n{step_verdict(steps)} {more}", {"steps": steps, "next_minutes": asdict(more)}
