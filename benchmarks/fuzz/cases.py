"""One broken input per number: the same number always makes the same files and the same command."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fuzz import mutate, seeds

# Readers in the shares of 100 cases.
SHARES: Final = {
    "trace": 30, "config": 24, "cluster": 9, "device": 6, "engine": 5, "import": 10, "measurements": 6, "fit": 5,
    "manifest": 2, "flags": 3,
}  # fmt: skip
_SMALL: Final = ("--model", "tiny-llama", "--cluster", "cpu-2")
# Every so many cases a trace or plan that turned out sound is simulated too.
SIMULATED_ONE_IN: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command and the names one of which its refusal must hold (none: no file is read)."""

    arguments: tuple[str, ...]
    names: tuple[str, ...] = ()


def reader_of(number: int) -> str:
    """Return which reader a number's case is for; any 100 numbers in a row have the shares above."""
    place = number * 37 % 100  # 37 and 100 have no common divisor: neighbours are of different readers
    for reader, share in SHARES.items():
        if place < share:
            return reader
        place -= share
    raise AssertionError(number)


def make_case(number: int, folder: Path, *, content: bytes | None = None, rng: random.Random | None = None) -> Case:
    """Write the files of a case into ``folder`` and return its command.

    ``content`` stands in for the broken bytes, ``rng`` for the draws of this number.
    """
    return _MAKERS[reader_of(number)](rng or random.Random(number), folder, content)


def _write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    return path


def _json_text(value: Any) -> str:
    return json.dumps(value).replace(str(10**400), "9" * 5000)


def _broken_text(rng: random.Random, text: str) -> bytes:
    """Break a text as text or as bytes."""
    if rng.random() < 0.5:
        return mutate.text_of(rng, text).encode(errors="surrogatepass")
    return mutate.raw(rng, text.encode(errors="surrogatepass"))


def _broken_records(rng: random.Random, text: str) -> bytes:
    """Break a file of JSON lines or one JSON document as the values it holds, else as text."""
    try:
        records = [json.loads(line) for line in text.splitlines() if line.strip()]
        is_lines = True
    except ValueError:
        try:
            records, is_lines = json.loads(text), False
        except ValueError:
            return _broken_text(rng, text)
    changed = mutate.document(rng, records)
    if is_lines and isinstance(changed, list):
        return "\n".join(map(_json_text, changed)).encode()
    return _json_text(changed).encode()


def _broken_csv(rng: random.Random, text: str) -> bytes:
    """Break cells of a table of text."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(rng.choice((1, 1, 2, 6))):
        row = rng.choice(rows)
        column = rng.randrange(len(row))
        value = rng.choice(mutate.EXTREMES)
        row[column] = rng.choice(
            (str(value)[:2000] if not isinstance(value, int) or abs(value) < 10**100 else "9" * 500, "")
        )
    return "\n".join(",".join(row) for row in rows).encode(errors="surrogatepass")


def _trace(rng: random.Random, folder: Path, content: bytes | None) -> Case:
    name, sound = rng.choice(sorted(seeds.traces().items()))
    text = sound.decode()
    if content is None:
        choice = rng.random()
        if choice < 0.1:
            return _parquet_trace(rng, folder, text)
        if choice < 0.6:
            content = _broken_csv(rng, text) if name.endswith("csv") else _broken_records(rng, text)
        else:
            content = _broken_text(rng, text)
    if rng.random() < 0.2:
        name, content = name + ".gz", mutate.packed(rng, content)
    path = _write(folder, name, content)
    options: list[str] = []
    if rng.random() < 0.15:
        options += ["--limit", rng.choice(("1", "2", "5"))]
    if rng.random() < 0.1:
        options += ["--format", rng.choice(("apex-jsonl", "mooncake", "azure", "burstgpt", "sharegpt", "vllm-bench"))]
    if rng.random() < 0.1:
        options += ["--sort"]
    return _describe(rng, path, options)


def _describe(rng: random.Random, path: Path, options: Sequence[str]) -> Case:
    names = (str(path), path.name, f"workload {path.stem!r}")
    if rng.randrange(SIMULATED_ONE_IN) == 0:
        command = ("simulate", *_SMALL, "--plan", "tp1", "--trace", str(path), "--limit", "3", "--json")
        return Case(arguments=command, names=names)
    if rng.random() < 0.1:
        out = path.with_name(rng.choice(("out.csv", "out.jsonl", "out.parquet")))
        return Case(arguments=("trace", "convert", str(path), str(out), *options), names=(*names, out.name))
    return Case(arguments=("trace", "describe", str(path), "--json", *options), names=names)


def _parquet_trace(rng: random.Random, folder: Path, _: str) -> Case:
    sound = pa.table(
        {
            "arrival_s": [0.0, 0.5, 1.0],
            "prompt_tokens": pa.array([10, 20, 30], pa.int64()),
            "output_tokens": pa.array([5, 6, 7], pa.int64()),
        }
    )
    return _describe(rng, _broken_parquet(rng, folder, "trace.parquet", sound), ())


def _broken_parquet(rng: random.Random, folder: Path, name: str, sound: pa.Table, content: bytes | None = None) -> Path:
    """Write a table broken as a table, or its file broken as bytes."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        return _write(folder, name, content)
    broken = sound
    if rng.random() < 0.75:
        for _ in range(rng.choice((1, 1, 2))):
            if broken.num_columns:
                broken = mutate.table(rng, broken)
    pq.write_table(broken, path)
    if broken is sound:
        path.write_bytes(mutate.raw(rng, path.read_bytes()))
    return path


def _config(rng: random.Random, folder: Path, content: bytes | None) -> Case:
    sound = rng.choice(list(seeds.configs().values()))
    if content is None:
        broken = mutate.document(rng, sound)
        content = _broken_text(rng, json.dumps(sound)) if rng.random() < 0.2 else _json_text(broken).encode()
    path = _write(folder, "model/config.json", content)
    names = (str(path), str(path.parent))
    if rng.randrange(SIMULATED_ONE_IN) == 0:
        trace = "synthetic:isl=20,osl=3,rate=1,n=2"
        command = (
            "simulate",
            "--model",
            str(path.parent),
            "--cluster",
            "h100-sxm-8",
            "--plan",
            "tp8",
            "--trace",
            trace,
        )
        return Case(arguments=command, names=names)
    return Case(arguments=("models", str(path.parent), *(("--json",) if rng.random() < 0.5 else ())), names=names)


def _toml(rng: random.Random, sound: dict[str, Any], content: bytes | None) -> str | bytes:
    if content is not None:
        return content
    if rng.random() < 0.25:
        return _broken_text(rng, seeds.toml_text(sound))
    broken = mutate.document(rng, sound)
    return seeds.toml_text(broken if isinstance(broken, dict) else {"x": broken})


def _cluster(rng: random.Random, folder: Path, content: bytes | None) -> Case:
    path = _write(folder, "cluster.toml", _toml(rng, rng.choice(list(seeds.tomls("clusters").values())), content))
    return Case(arguments=("clusters", str(path)), names=(str(path),))


def _device(rng: random.Random, folder: Path, content: bytes | None) -> Case:
    name, sound = rng.choice(list(seeds.tomls("devices").items()))
    device = _write(folder, f"{name}.toml", _toml(rng, sound, content))
    beside = {**seeds.tomls("clusters")["h100-sxm-8"], "name": "beside", "device": name}
    cluster = _write(folder, "cluster.toml", seeds.toml_text(beside))
    return Case(arguments=("clusters", str(cluster)), names=(str(device), str(cluster)))


def _engine(rng: random.Random, folder: Path, content: bytes | None) -> Case:
    path = _write(folder, "engine.toml", _toml(rng, rng.choice(list(seeds.tomls("engines").values())), content))
    limits = ("--max-num-seqs", "2", "--max-num-batched-tokens", "32", "--max-model-len", "64")
    command = ("shapes", *_SMALL, "--plan", "tp1", "--engine", str(path), *limits, "--out", str(folder / "shapes.json"))
    return Case(arguments=command, names=(str(path), "no plan can start"))


def _import(rng: random.Random, folder: Path, content: bytes | None) -> Case:
    tool, (name, text) = rng.choice(list(seeds.IMPORTS.items()))
    if content is None:
        broken = _broken_records(rng, text) if name.endswith("json") else _broken_csv(rng, text)
        content = broken if rng.random() < 0.6 else _broken_text(rng, text)
    path = _write(folder, name, content)
    command = ("import", tool.partition(" ")[0], str(path), "--db", str(folder / "db"))
    options = ("--device", "h100-sxm") if rng.random() < 0.3 else ()
    return Case(arguments=(*command, *options), names=(str(path),))


def _measurements(rng: random.Random, folder: Path, content: bytes | None) -> Case:
    family, sound = rng.choice(list(seeds.measurements().items()))
    path = _broken_parquet(rng, folder, f"db/h100-sxm/{family}/rows.parquet", sound, content)
    shown = family if family != "run" else "gemm"
    command = rng.choice(
        (
            ("ls",),
            ("show", shown),
            ("verify",),
            ("verify", "--json"),
            ("export", shown, str(folder / "out.csv")),
            ("merge", str(folder / "db")),
        )
    )
    db = folder / ("new" if command[0] == "merge" else "db")
    return Case(arguments=("db", *command, "--db", str(db)), names=(str(path), path.name, "findings"))


def _fit(rng: random.Random, folder: Path, content: bytes | None) -> Case:
    path = _broken_parquet(rng, folder, "fit.parquet", seeds.fit(), content)
    if rng.randrange(SIMULATED_ONE_IN) == 0:
        command = (
            "simulate",
            "--model",
            "llama-3.1-8b",
            "--cluster",
            "a100-sxm-80gb-8",
            "--plan",
            "tp1",
            "--costs",
            str(path),
        )
        return Case(arguments=(*command, "--trace", "synthetic:isl=20,osl=3,rate=1,n=2"), names=(str(path),))
    return Case(arguments=("compare", str(path), "--json"), names=(str(path),))


def _manifest(rng: random.Random, folder: Path, content: bytes | None) -> Case:
    if content is None:
        text = _json_text(mutate.document(rng, seeds.MANIFEST))
        content = text.encode() if rng.random() < 0.7 else _broken_text(rng, json.dumps(seeds.MANIFEST))
    path = _write(folder, "shapes.json", content)
    command = ("profile", "--dry-run", "--device", "cpu", "--manifest", str(path), "--db", str(folder / "db"))
    return Case(arguments=command, names=(str(path), "--families", "--dtypes"))


def _text_value(rng: random.Random, sound: str) -> str:
    """Mangle the value of an option as a person or a shell may."""
    value = (
        mutate.raw(rng, sound.encode()).decode(errors="replace")
        if rng.random() < 0.7
        else str(rng.choice(mutate.EXTREMES[11:]))
    )
    return value[:5000]


def _flags(rng: random.Random, folder: Path, _: bytes | None) -> Case:
    choice = rng.randrange(6)
    limits = ("--max-num-seqs", "2", "--max-num-batched-tokens", "32", "--max-model-len", "64")
    if choice <= 1:
        plan = _text_value(rng, rng.choice(seeds.PLANS))
        return Case(arguments=("shapes", *_SMALL, f"--plan={plan}", *limits, "--out", str(folder / "shapes.json")))
    if choice == 2:
        workload = _text_value(rng, rng.choice(("synthetic:chat,rate=2,n=20", "closed:isl=10,osl=5,concurrency=2,n=4")))
        return Case(arguments=("trace", "describe", "--", workload))
    if choice == 3:
        name = rng.choice(
            ("--max-num-seqs", "--max-model-len", "--max-num-batched-tokens", "--engine", "--weights", "--kv")
        )
        value = _text_value(rng, rng.choice(("4", "64", "fp8", "vllm-0.33")))
        return Case(arguments=("shapes", *_SMALL, *limits, f"{name}={value}", "--out", str(folder / "shapes.json")))
    if choice == 4:
        return Case(
            arguments=("clusters", "--", _text_value(rng, rng.choice(("h100-sxm-8", "gb200-72", "a100-sxm-80gb-2x8"))))
        )
    return Case(
        arguments=("models", "--", _text_value(rng, rng.choice(("llama-3.1-8b", "Qwen/Qwen3-8B", "mixtral-8x7b"))))
    )


_MAKERS: Final[dict[str, Callable[[random.Random, Path, bytes | None], Case]]] = {
    "trace": _trace,
    "config": _config,
    "cluster": _cluster,
    "device": _device,
    "engine": _engine,
    "import": _import,
    "measurements": _measurements,
    "fit": _fit,
    "manifest": _manifest,
    "flags": _flags,
}
