"""What a person says of the servers behind results, completed by what the results say of themselves.

A statement of both that differs is refused: one of them is wrong, and a prediction of the other would not tell.
"""

import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from cluster_specs.bundled_names import bundled_devices
from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from cluster_specs.load import load_cluster
from profiles_db.recordings.server_facts import ServerFacts
from profiles_db.recordings.stated_server import StatedServer
from simulator.engine_profiles.bundled_profiles import DEFAULT_PROFILE, newest_bundled
from simulator.engine_profiles.engine_profile import load_profile
from simulator.model.extension import load_extensions
from simulator.model.load_model import load_model
from simulator.model.spec import ModelSpec
from simulator.plan.pool_plan import PoolPlan, parse_layout
from simulator.validation.deployment import Deployment
from simulator.validation.stated_names import cluster_of, device_of, weight_format

_VERSION: Final = re.compile(r"v?(\d{1,6}\.\d{1,6})(\.\d{1,6})?.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A deployment of which parts may be left to the results; None leaves a part to them.

    ``concurrency`` and ``request_rate_per_s`` are the client's, for results that do not state them.
    """

    model: str | None = None
    cluster: str | None = None
    plan: str | None = None
    engine: str | None = None
    costs: Path | None = None
    out_of_domain: str = "roofline"
    allow_unsupported: bool = False
    extensions: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int | None = None
    request_rate_per_s: float | None = None

    @classmethod
    def of(cls, deployment: Deployment) -> "Asked":
        """Ask for a deployment that is whole."""
        return cls(**{name: getattr(deployment, name) for name in Deployment.__dataclass_fields__})

    def completed(self, stated: StatedServer, facts: ServerFacts, place: str) -> Deployment:
        """Return the deployment of a result; raises ``UserError`` for what nobody states, and for contradictions."""
        model = self._model(stated, place)
        return Deployment(
            model=model,
            cluster=self._cluster(stated, place),
            plan=self._plan(stated, model, place),
            engine=self._engine(stated, facts, place),
            costs=self.costs,
            out_of_domain=self.out_of_domain,
            allow_unsupported=self.allow_unsupported,
            extensions=self.extensions,
            settings=self._settings(facts, place),
        )

    def _model(self, stated: StatedServer, place: str) -> str:
        load_extensions(self.extensions)
        if stated.model is None:
            return _needed("model", self.model, place)
        measured = _known(stated.model)
        if self.model is None:
            if measured is None:
                raise UserError(
                    f"{place}: was measured on {shown(stated.model)}, of which no config is known here",
                    hint="state its config.json, or the bundled model that it is: --model",
                )
            return stated.model
        if measured is not None and _shape(load_model(self.model)) != _shape(measured):
            raise UserError(
                f"{place}: was measured on {shown(stated.model)}, and --model is {shown(self.model)}, another model",
                hint="state the model that was measured, or leave --model out",
            )
        return self.model

    def _cluster(self, stated: StatedServer, place: str) -> str:
        device = None if stated.hardware is None else device_of(stated.hardware)
        if self.cluster is None:
            if stated.hardware is not None and device is None:
                raise UserError(
                    f"{place}: was measured on {shown(stated.hardware)}, which is no bundled device",
                    hint="state a cluster of it: --cluster (docs/guides/add_a_device.md)",
                )
            told = None if device is None else cluster_of(device, stated.devices or 1)
            return _needed("cluster", told, place)
        asked = load_cluster(self.cluster).device.name
        if device is not None and asked != device and asked in bundled_devices():
            raise UserError(
                f"{place}: was measured on {shown(stated.hardware)}, and --cluster is {shown(self.cluster)}",
                hint="state a cluster of the device that was measured, or leave --cluster out",
            )
        return self.cluster

    def _plan(self, stated: StatedServer, model: str, place: str) -> str:
        if self.plan is not None:
            if stated.plan is not None and _layout(self.plan) != _layout(stated.plan):
                raise UserError(
                    f"{place}: was measured as {stated.plan}, and --plan is {shown(self.plan)}",
                    hint="state the layout that was measured, or leave --plan out",
                )
            return self.plan
        plan = _needed("plan", stated.plan, place)
        if stated.precision is None:
            return plan
        added, reason = weight_format(stated.precision, load_model(model))
        if reason is not None:
            raise UserError(f"{place}: {reason}", hint="state the checkpoint's config.json: --model")
        return plan if added is None else "+".join(f"{part}-w.{added}" for part in plan.split("+"))

    def _engine(self, stated: StatedServer, facts: ServerFacts, place: str) -> str:
        engine, version = stated.engine or facts.engine, stated.version or facts.version
        if engine is not None and self.engine is not None:
            asked = load_profile(self.engine).engine
            if asked != engine:
                raise UserError(
                    f"{place}: was measured on {engine}, and --engine is {shown(self.engine)}, a profile of {asked}",
                    hint="state a profile of the engine that was measured, or leave --engine out",
                )
        if self.engine is not None:
            return self.engine
        if engine is None:
            return DEFAULT_PROFILE
        newest = newest_bundled(engine)
        if newest is None:
            raise UserError(f"{place}: was measured on {shown(engine)}, an engine that is not simulated")
        found = None if version is None else _VERSION.fullmatch(version)
        return newest if found is None else f"{engine}-{found[1]}"

    def _settings(self, facts: ServerFacts, place: str) -> Mapping[str, Any]:
        settings = dict(self.settings)
        for name, told in (("num_gpu_blocks", facts.num_gpu_blocks), ("block_size", facts.block_size)):
            if told is None:
                continue
            if settings.get(name) not in {None, told}:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(
                    f"{place}: its server had a {name} of {told}, and {flag} is {settings[name]}",
                    hint=f"leave {flag} out",
                )
            settings[name] = told
        return settings


def refuse_other_load(asked: Asked, *, concurrency: int | None, rate_per_s: float | None, place: str) -> None:
    """Refuse a load on the command line beside a result that states its own; raises ``UserError``."""
    for flag, told, said in (
        ("--concurrency", concurrency, asked.concurrency),
        ("--request-rate", rate_per_s, asked.request_rate_per_s),
    ):
        if said is not None and said != told:
            its_own = "none" if told is None else f"{told:g}"
            raise UserError(f"{place}: states its load, {its_own}, and {flag} is {said:g}", hint=f"leave {flag} out")


def _needed(name: str, value: str | None, place: str) -> str:
    if value is None:
        raise UserError(f"{place}: does not say which {name} it was measured on", hint=f"state it: --{name}")
    return value


def _known(model: str) -> ModelSpec | None:
    """Return the model that an id or name stands for; None where it is a path of another machine, or not known."""
    if model.startswith(("/", ".", "~")):
        return None
    try:
        return load_model(model)
    except UserError:
        return None


def _layout(plan: str) -> tuple[tuple[int, ...], ...]:
    """Return how a plan spreads a model, whatever its formats and limits."""
    parsed = parse_layout(plan)
    parts = (parsed.prefill, parsed.decode) if isinstance(parsed, PoolPlan) else (parsed,)
    return tuple((part.dp, part.pp, part.tp, part.attention_dp, part.ep) for part in parts)


def _shape(model: ModelSpec) -> tuple[str, int, int, int]:
    """Return what two checkpoints of one model share, however they are quantised and named."""
    return model.architecture, model.hidden_size, model.num_layers, model.parameters()
