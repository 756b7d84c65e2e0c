"""`apex fit`: a thin shell over the library, which is told the kernels of the engine by its profile."""

from pathlib import Path

import click

from cluster_specs.command_line import Command, check_outputs, refuse_given
from profiles_db.terminal import DB_OPTION, JSON_OPTION, opened


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
    monotone: bool,
    out: Path | None,
    constants: bool,
    as_json: bool,
) -> None:
    """Turn measurements into a fitted cost model, with its held-out error."""
    from cluster_specs.extras import require_extra
    from costmodel.fit_file.artefact import save_artefact
    from costmodel.fitting.fit_device import fit_device
    from costmodel.fitting.measured_device import choose_cluster, choose_device
    from costmodel.fitting.prior import Prior
    from costmodel.fitting.report import fit_text, report_json
    from simulator.engine_profiles.kernels_of_engine import kernels_of_engine

    if constants:
        refuse_given(context, "out", "prior", "monotone", "as_json", because="--constants prints TOML and fits nothing")
    else:
        require_extra("fit", "scipy", "sklearn", what="apex fit")
    store = opened(db)
    chosen = choose_device(store, device)
    spec = choose_cluster(chosen, cluster)
    if constants:
        from costmodel.fitting.calibrate_constants import calibrate, constants_toml

        click.echo(constants_toml(calibrate(store, spec, framework=framework)), nl=False)
        return
    path = out or Path(f"{chosen}.fit.parquet")
    started_from = Prior.choose(prior, chosen)
    prior_file = started_from.path if started_from is not None else None
    check_outputs([path], [cluster, prior_file, *(file.path for file in store.iter_files())])
    wanted = framework or (started_from.framework if started_from is not None else "")
    engine = kernels_of_engine(wanted, spec.device)
    artefact = fit_device(
        store, chosen, spec, framework=framework, is_monotone=monotone, prior=started_from, engine=engine
    )
    save_artefact(artefact, path)
    click.echo(report_json(artefact) if as_json else fit_text(artefact))
    click.echo(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB", err=True)
