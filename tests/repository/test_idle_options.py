"""Options that cannot act are refused by name, with the reason; exit codes say whether there is an answer."""

import json
from pathlib import Path

import pytest

from simulator.cli import main

_WHERE = "--model tiny-llama --cluster h100-sxm-2"
_TRAFFIC = "--trace synthetic:isl=64,osl=4,rate=50,n=8"
_CLOSED = "--trace closed:isl=64,osl=4,concurrency=2"


@pytest.mark.parametrize(
    ("option", "because"),
    [
        ("--enable-lora", "LoRA adapters are not simulated: no table of prices"),
        ("--lora-modules=a=b", "LoRA adapters are not simulated"),
        ("--kv-offloading-size 8", "in host memory are not simulated: no table of prices"),
        ("--enable-hierarchical-cache", "each connector has rules of its own"),
        ("--ec-transfer-config {}", "encoders on devices of their own are not simulated"),
    ],
)
def test_what_engines_can_and_no_price_covers_is_refused_by_name(
    option: str, because: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options of engines for LoRA, KV offload and encoder pools name what is missing; a misspelling stays one."""
    code, out, said = _run(f"search {_WHERE} {_TRAFFIC} {option}", capsys)
    assert (code, out) == (2, "")
    assert because in said
    assert "No such option '--enable-lorax'" in _run(f"search {_WHERE} {_TRAFFIC} --enable-lorax", capsys)[2]


def _run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    said = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, said.out, said.err


@pytest.mark.parametrize(
    ("line", "flag", "because"),
    [
        (f"simulate {_WHERE} {_TRAFFIC} --plan tp2 --router vllm", "--router", "more than one replica"),
        (f"search {_WHERE} {_TRAFFIC} --plan tp2 --router vllm", "--router", "more than one replica"),
        (f"simulate {_WHERE} {_TRAFFIC} --plan tp2 --costs analytic --out-of-domain clip", "--out-of-domain", "domain"),
        (f"simulate {_WHERE} {_CLOSED} --plan tp2 --rate-scale 2", "--rate-scale", "closed loop"),
        (
            f"simulate {_WHERE} {_TRAFFIC} --plan tp2 --attention-dp-timeout-iters 9",
            "--attention-dp-timeout-iters",
            "ranks",
        ),
        (
            "simulate --model deepseek-v3 --cluster h200-sxm-8 --plan attn.dp8-moe.ep8 --batch-wait-timeout-iters 9 "
            f"--batch-wait-max-tokens-ratio 0.5 {_TRAFFIC}",
            "--batch-wait-timeout-iters, --batch-wait-max-tokens-ratio",
            "ranks",
        ),
        (f"search {_WHERE} {_TRAFFIC} --seqs 4,8 --max-num-seqs 16", "--max-num-seqs", "--seqs"),
        (
            f"search {_WHERE} {_TRAFFIC} --tokens 256 --max-num-batched-tokens 512",
            "--max-num-batched-tokens",
            "--tokens",
        ),
        (f"shapes {_WHERE} --plan tp2 --weights fp8 -o OUT/m.json", "--weights", "--plan"),
        (f"shapes {_WHERE} --plan tp2 --fewer-devices -o OUT/m.json", "--fewer-devices", "--plan"),
        ("fit --constants --monotone", "--monotone", "--constants"),
        ("engines --toml", "--toml", "one profile"),
        ("engines vllm-0.33 --json --toml", "--toml", "--json"),
        ("compare fit.parquet --match backend", "--match", "of its own"),
        ("compare h100-sxm h200-sxm --cluster h100-sxm-8", "--cluster", "need none"),
        ("profile --self-test --budget 2s", "--budget", "--self-test"),
        ("profile --exhaustive --target-error 0.1", "--target-error", "--exhaustive"),
    ],
)
def test_an_option_that_cannot_act_is_refused(
    line: str, flag: str, because: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the flag and why nothing would change; nothing is written."""
    code, out, err = _run(line.replace("OUT", str(tmp_path)), capsys)
    assert code == 2, err
    assert not out
    assert f"{flag} cannot act" in err
    assert because in err
    assert "hint:" in err
    assert not list(tmp_path.iterdir())


def test_limits_that_no_plan_keeps_end_in_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    """A search whose plans all break a limit, and a plan that breaks its own, print the answer and end in 3."""
    code, out, _ = _run(f"search {_WHERE} {_TRAFFIC} --slo ttft_s.p99<=1e-9 --json", capsys)
    assert code == 3
    assert all(plan["breaks"] == ["ttft_s.p99<=1e-09"] for plan in json.loads(out)["plans"])
    code, out, err = _run(f"simulate {_WHERE} {_TRAFFIC} --plan tp2 --slo ttft_s.p99<=1e-9 --json", capsys)
    assert code == 3
    assert json.loads(out)["breaks"] == ["ttft_s.p99<=1e-09"]
    assert "plan tp2 breaks ttft_s.p99<=1e-09" in err
    code, out, _ = _run(f"simulate {_WHERE} {_TRAFFIC} --plan tp2 --slo ttft_s.p99<=100 --json", capsys)
    assert code == 0
    assert json.loads(out)["breaks"] == []


@pytest.mark.parametrize(
    "line",
    [
        "trace convert IN IN --limit 1",
        f"shapes {_WHERE} --trace closed:trace=IN,concurrency=1 -o IN",
        f"search {_WHERE} --trace IN -o IN",
        f"search {_WHERE} --trace synthetic:like=IN,n=5 -o IN",
        f"simulate {_WHERE} --trace IN --plan tp2 --requests-out IN",
        f"simulate {_WHERE} --trace closed:trace=IN,concurrency=1 --plan tp2 --chrome-trace IN",
        f"search {_WHERE} {_TRAFFIC} --engine ENGINE -o BASE",
        f"simulate {_WHERE} {_TRAFFIC} --engine ENGINE --plan tp2 --chrome-trace BASE",
        f"shapes {_WHERE} --engine ENGINE -o BASE",
    ],
)
def test_no_command_overwrites_what_it_reads(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An output that is an input ends in exit code 2, and the input is as it was."""
    source = tmp_path / "in.csv"
    text = "arrival_s,prompt_tokens,output_tokens\n0,8,2\n1,8,2\n"
    source.write_text(text)
    base, engine = tmp_path / "base.toml", tmp_path / "engine.toml"
    profile = 'schema = 1\nname = "base"\nextends = "vllm-0.33"\n'
    base.write_text(profile)
    engine.write_text('schema = 1\nname = "engine"\nextends = "base.toml"\n')
    places = {"IN": source, "ENGINE": engine, "BASE": base}
    code, _, err = _run(
        " ".join(str(places.get(word, word)) for word in line.replace("=IN", f"={source}").split()), capsys
    )
    assert code == 2, err
    assert "is an input" in err
    assert (source.read_text(), base.read_text()) == (text, profile)
