"""`altgrad inspect-format` as a user meets it: screens, JSON, codes, files, refusals, start-up time."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from altgrad_cli.checkpoints.file import write_checkpoint
from altgrad_cli.commands.app import app
from altgrad_cli.commands.inspect_format import EXAMPLES
from altgrad_cli.formats import FORMAT_REGISTRY, named_formats, parse_format
from altgrad_cli.training.watch.clipping import PartitionRelativeClipper
from altgrad_cli.training.watch.fallback import FORMAT_FALLBACK

NAMES = [format.name for format in named_formats()]
STUDY = list(FORMAT_FALLBACK)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(app, ["inspect-format", *arguments])


def facts_of(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout, parse_constant=pytest.fail)  # strict: no bare NaN or Infinity
    assert isinstance(document, dict)
    return document


def number(value: float | str) -> float:
    return (
        {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[value]
        if isinstance(value, str)
        else value
    )


# --- the screen ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [80, 160])
def test_the_sheet_fits_the_terminal(name: str, width: int) -> None:
    result = run(name, COLUMNS=str(width))
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == parse_format(name).describe()
    assert max(map(len, lines)) <= width
    assert "…" not in result.stdout  # nothing cut
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("name", ["E7M0", "E3M4"])
def test_no_fact_is_lost_between_a_narrow_and_a_wide_terminal(name: str) -> None:
    def words(width: int) -> list[str]:
        return sorted(run(name, COLUMNS=str(width)).stdout.split())

    assert words(80) == words(160)


def test_the_sheet_of_e7m0_says_what_the_study_needs() -> None:
    text = run("e7m0", "--lr", "6e-4", "--std", "0.02", COLUMNS="80").stdout
    for part in (
        "E7M0 (bias 63, no inf, no nan, max 2^64)",
        "8: s eeeeeee",
        "smallest normal     2^-62",
        "127 (127 normal, 0 subnormal)",
        "126.00 octaves, 37.93 decades",
        "to the even code: 0.75 → 0.5, 1.5 → 2, 3 → 2",
        "1.5*2^64 and beyond become the max; overflow: ieee is",
        "worst 33.3 %, mean 17 %",
        "14.23 dB",
        "in the long run     98.6 %",
        "at the first step   91.3 %",
        "3.217e+14",
        "fallback            E5M2",
        "E7M0:fnuz (bias 64, no inf, nan, no -0, max 2^63)",
    ):
        assert part in text
    moves_1 = next(line for line in text.splitlines() if line.startswith("  1 "))
    assert moves_1.split() == ["1", "1", "1", "0.5", "0.25"]


def test_equivalence_is_said() -> None:
    text = " ".join(run("E1M6", COLUMNS="160").stdout.split())
    assert "E1M6 is E0M7 times 4: under per-tensor scaling" in text
    assert "no named format is this one times a power of two" in " ".join(run("E5M2").stdout.split())


def test_a_terminal_without_unicode_gets_plain_bars() -> None:
    probe = [sys.executable, "-m", "altgrad_cli", "inspect-format", "E3M4"]
    done = subprocess.run(
        probe, capture_output=True, env={"PYTHONIOENCODING": "ascii", "PATH": ""}, timeout=60, check=True
    )
    assert b"##########" in done.stdout
    done.stdout.decode("ascii")


@pytest.mark.parametrize("no_color, coloured", [("", True), ("1", False)])
def test_no_color_is_honoured(no_color: str, coloured: bool) -> None:
    text = run("E3M4", FORCE_COLOR="1", NO_COLOR=no_color).stdout
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", text)) == coloured


@pytest.mark.parametrize(("magnitude", "held"), [(1e-16, False), (1e-36, True)])
def test_small_weights_are_not_the_formats_underflow(tmp_path: Path, magnitude: float, held: bool) -> None:
    """A matrix of tiny values has a scale of its own; where that ends, the line says so."""
    weights = torch.linspace(0.5, 1, 64).view(8, 8) * magnitude
    path = tmp_path / "tiny.safetensors"
    save_file({"m": weights}, path)
    assert facts_of("E5M2", "--on", str(path))["tensors"][0]["underflow"] == 0
    assert ("smallest normal float32, 2^-126: m" in run("E5M2", "--on", str(path)).stdout) == held


# --- codes and comparison -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["E7M0", "E4M3:fnuz", "E5M2", "E2M1", "E0M7"])
def test_codes_lists_every_code_with_its_bits_value_and_exact_fraction(name: str) -> None:
    format = parse_format(name)
    lines = run(name, "--codes").stdout.splitlines()
    rows = [line.split() for line in lines if line.startswith("0x")]
    assert len(rows) == format.code_count
    for code, (shown, *bits, value, fraction) in enumerate(rows):
        assert int(shown, 16) == code == int("".join(bits), 2)
        real = format.to_real(code)
        if math.isfinite(real):
            assert float(value) == real
            base, _, exponent = fraction.partition("2^")
            exact = (
                Fraction(fraction)
                if not exponent
                else Fraction(base.strip("-*") or 1) * Fraction(2) ** int(exponent)
            )
            if exponent and fraction.startswith("-"):
                exact = -exact
            assert exact == format.to_fraction(code)
        else:
            assert value in ("NaN", "Infinity", "-Infinity")


def test_compare_puts_two_formats_side_by_side() -> None:
    text = run("E3M4", "--compare", "E3M4:ieee", COLUMNS="80").stdout
    rows = {line[:20].strip(): line[20:].split() for line in text.splitlines()[3:]}
    assert rows["max"] == ["124", "15.5"]
    assert rows["values the other has"][1:] == ["159", "of", "255", "159", "of", "223"][1:]
    assert "times 4" in run("E1M6", "--compare", "E0M7").stdout
    document = facts_of("E3M4", "--compare", "E3M4:ieee")
    assert document["compared_to"]["max"] == 15.5


# --- JSON ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_json_is_complete(name: str) -> None:
    format, document = FORMAT_REGISTRY[name], facts_of(name)
    assert document["schema"] == "altgrad.inspect-format/1"
    assert next(iter(document)) == "schema"
    assert document["name"] == name
    assert document["exponent_bits"] == format.exponent_bits
    assert document["mantissa_bits"] == format.mantissa_bits
    assert document["bias"] == (None if format.is_fixed_point else format.bias)
    assert document["has_inf"] == format.has_inf
    assert document["has_nan"] == format.has_nan
    assert document["max"] == format.max_representable_value
    assert document["min_normal"] == format.min_normal
    assert document["min_subnormal"] == format.min_subnormal
    assert len(document["values"]) == format.code_count
    for value, expected in zip(map(number, document["values"]), format.values(), strict=True):
        assert value == expected or (math.isnan(value) and math.isnan(expected))
    assert 0 <= document["predicted_stall"] <= 1
    assert document["compared_to"] is None
    assert document["tensors"] is None


def test_json_keys_are_stable() -> None:
    identity = ["schema", "name", "description", "exponent_bits", "mantissa_bits", "width", "bias", "dialect"]
    specials = ["also_known_as", "has_inf", "has_nan", "negative_zero"]
    range_ = [
        "max",
        "min_normal",
        "min_subnormal",
        "smallest_positive",
        "octaves",
        "decades",
        "uniform",
        "binades",
    ]
    accuracy = ["relative_error", "gaussian_sqnr_db", "gaussian_best_scale", "half_gaps"]
    stall = ["predicted_stall", "predicted_stall_first_step", "predicted_stall_for"]
    rounding = ["ties", "overflow_from", "overflow_ieee"]
    relations = ["equivalent_to", "same_name", "clip_threshold", "fallback", "in_study", "blocks"]
    expected = [*identity, *specials, *range_, *accuracy, *stall, *rounding, *relations]
    expected += ["values", "compared_to", "tensors"]
    documents = [facts_of(name) for name in ("E0M7", "E5M2", "E7M0", "FP16")]
    for document in documents:
        assert list(document) == expected
    assert documents[0]["equivalent_to"] == [{"format": "E1M6", "factor": 0.25, "same_specials": True}]


@pytest.mark.parametrize("name", STUDY)
def test_what_the_study_does_with_a_format_is_what_the_program_does(name: str) -> None:
    document = facts_of(name)
    assert document["fallback"] == FORMAT_FALLBACK[name]
    assert document["clip_threshold"] == PartitionRelativeClipper(FORMAT_REGISTRY[name]).clip_threshold


def test_the_stall_follows_lr_std_and_scale() -> None:
    usual = facts_of("E5M2")
    assert facts_of("E5M2", "--lr", "6e-5")["predicted_stall"] > usual["predicted_stall"]
    assert facts_of("E5M2", "--std", "0.2")["predicted_stall"] > usual["predicted_stall"]
    assert facts_of("E3M4", "--scale", "1")["predicted_stall_for"]["scale"] == 1
    assert facts_of("E3M4", "--scale", "1")["predicted_stall"] == pytest.approx(1)
    assert facts_of("E5M2", "--lr", "0")["predicted_stall"] == 1


# --- real tensors -------------------------------------------------------------------------------------


@pytest.fixture
def network() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "blocks.0.attn.c_attn.weight": 0.02 * torch.randn(96, 32, generator=generator),
        "blocks.0.mlp.c_fc.weight": torch.randn(64, 32, generator=generator).bfloat16(),
        "blocks.0.ln.weight": torch.ones(32),
        "ids": torch.arange(6).reshape(2, 3),
    }


@pytest.mark.parametrize("layout", ["plain", "nested", "safetensors", "altgrad"])
def test_a_files_matrices_are_measured(layout: str, network: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / ("net.safetensors" if layout == "safetensors" else "net.pt")
    if layout == "safetensors":
        save_file(network, path)
    elif layout == "altgrad":
        write_checkpoint(path, {"step": 3, "weights": network, "optimizer": {"m": network, "v": network}})
    else:
        nested = {"model": network, "optimizer": {"m": torch.ones(3, 3)}}
        torch.save(network if layout == "plain" else nested, path)
    rows = facts_of("E5M2", "--on", str(path), "--scale", "1")["tensors"]
    assert [row["name"] for row in rows] == [name for name in network if ".ln." not in name and name != "ids"]
    weight = network["blocks.0.attn.c_attn.weight"]
    rounded = weight.to(torch.float8_e5m2).float()  # torch's own E5M2 as the oracle
    row = rows[0]
    assert row["shape"] == [96, 32]
    assert row["amax"] == float(weight.abs().max())
    assert row["overflow"] == 0
    assert row["underflow"] == float(((rounded == 0) & (weight != 0)).double().mean())
    noise = (weight - rounded).double().square().sum()
    assert row["sqnr_db"] == pytest.approx(
        float(10 * torch.log10(weight.double().square().sum() / noise)), abs=1e-4
    )
    codes = weight.to(torch.float8_e5m2).view(torch.uint8).unique().numel()
    assert row["codes_used"] == pytest.approx(codes / 248)  # 256 codes less 2 inf and 6 nan
    predicted = facts_of("E5M2", "--scale", "1")["predicted_stall"]
    assert row["predicted_stall"] == pytest.approx(predicted, abs=0.03)


def test_the_screen_of_a_file_fits_and_names_what_it_left_out(
    network: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    network["broken.weight"] = torch.tensor([[math.nan, 1.0], [math.inf, 0.0]])
    network["zeros.weight"] = torch.zeros(3, 3)
    path = tmp_path / "net.pt"
    torch.save(network, path)
    for width in (80, 160):
        text = run("E3M4", "--on", str(path), COLUMNS=str(width)).stdout
        assert max(map(len, text.splitlines())) <= width
        assert "blocks.0.attn.c_attn" in text
        assert "2 other tensors (no float matrix, a mask, or not of the network) are left out." in " ".join(
            text.split()
        )
        broken = next(line for line in text.splitlines() if line.startswith("broken"))
        assert broken.split()[-1] == "2"
        zeros = next(line for line in text.splitlines() if line.startswith("zeros"))
        assert "–" in zeros  # no signal: not 0 dB
    zeros = facts_of("E3M4", "--on", str(path))["tensors"][-1]
    assert (zeros["name"], zeros["underflow"], zeros["sqnr_db"]) == ("zeros.weight", None, None)


def test_an_unscaled_narrow_format_underflows_as_measured_before(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": 0.02 * torch.randn(300, 300, generator=torch.Generator().manual_seed(0))}, path)
    rows = {
        name: facts_of(name, "--on", str(path), "--scale", "1")["tensors"][0] for name in ("E3M4", "E1M6")
    }
    # P(|w| < half a step) of a normal, half steps 1/32 and 1/64.
    assert rows["E3M4"]["underflow"] == pytest.approx(math.erf(1 / 32 / 0.02 / math.sqrt(2)), abs=0.01)
    assert rows["E1M6"]["underflow"] == pytest.approx(math.erf(1 / 64 / 0.02 / math.sqrt(2)), abs=0.01)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("empty.pt", b"", "the file is empty"),
        ("junk.pt", b"junk" * 20, "not a checkpoint"),
        ("junk.safetensors", b"junk" * 20, "neither a torch file nor a safetensors file"),
        ("absent.pt", None, "there is no such"),
        ("absent.safetensors", None, "there is no such file"),
    ],
)
def test_an_unreadable_file_is_a_users_error(
    file: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    result = run("E5M2", "--on", str(path))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_a_damaged_checkpoint_is_not_measured(network: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    write_checkpoint(path, {"step": 3, "weights": network})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = run("E5M2", "--on", str(path))
    assert result.exit_code == 2
    assert "damaged" in result.stderr


def test_a_file_with_nothing_to_round_is_refused(tmp_path: Path) -> None:
    torch.save({"bias": torch.ones(4)}, tmp_path / "v.pt")
    result = run("E5M2", "--on", str(tmp_path / "v.pt"))
    assert result.exit_code == 2
    assert "holds no float matrix" in result.stderr


# --- the plot -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["E3M4"], ["E7M0"], ["BF16"], ["E2M1"], ["E5M2", "--compare", "E4M3"]])
def test_the_plot_is_an_svg_that_repeats_itself(arguments: list[str], tmp_path: Path) -> None:
    drawings = []
    for file in ("one.svg", "two.svg"):
        result = run(*arguments, "--plot", str(tmp_path / file))
        assert result.exit_code == 0, result.stderr
        drawings.append((tmp_path / file).read_text())
    assert drawings[0] == drawings[1]
    assert ElementTree.fromstring(drawings[0]).tag.endswith("svg")
    for name in (word for word in arguments if not word.startswith("--")):
        assert parse_format(name).describe() in drawings[0]
    assert len(drawings[0]) < 600_000


@pytest.mark.parametrize("path, message", [("x.png", "SVG"), ("/dev/null/x.svg", "cannot write to")])
def test_a_plot_that_cannot_be_is_refused(path: str, message: str, in_tmp_folder: Path) -> None:
    result = run("E3M4", "--plot", path)
    assert result.exit_code == 2
    assert message in result.stderr


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, rule, hint",
    [
        ("", "the format's name is empty", "for example"),
        ("E9M9", "1 + E + M <= 16", "did you mean"),
        ("E-1M8", "the number of exponent bits must be a whole number >= 0, not '-1'", "E1M6"),
        ("E3M4:bias=abc", "the bias must be a whole number", "E3M4:ieee"),
        ("E4M3:fnuz:ieee", "fnuz and ieee exclude each other", "did you mean"),
        ("E5M3X", "unknown format 'E5M3X'", "E5M2"),
        ("E8M0", "unsigned", "E7M0"),
    ],
)
def test_a_wrong_name_exits_2_with_the_broken_rule(name: str, rule: str, hint: str) -> None:
    for arguments in ([name], ["E3M4", "--compare", name]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert rule in result.stderr
        assert hint in result.stderr.split("hint:")[1]
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "option, value",
    [
        ("--std", "0"),
        ("--std", "nan"),
        ("--scale", "-1"),
        ("--scale", "inf"),
        ("--lr", "-1"),
        ("--lr", "nan"),
    ],
)
def test_a_wrong_number_exits_2(option: str, value: str) -> None:
    result = run("E3M4", option, value)
    assert result.exit_code == 2
    assert option in result.stderr


def test_every_example_of_the_help_runs(network: dict[str, torch.Tensor], in_tmp_folder: Path) -> None:
    checkpoint = Path("runs/my_run/checkpoints/best.pt")
    checkpoint.parent.mkdir(parents=True)
    torch.save(network, checkpoint)
    for line in EXAMPLES:
        program, command, *arguments = line.split()
        assert (program, command) == ("altgrad", "inspect-format")
        assert run(*arguments).exit_code == 0


def test_a_format_of_blocks_shows_what_its_scales_cost_and_buy() -> None:
    shown = run("MXFP4").stdout
    assert "bits a value        4.25, scales included" in shown
    assert "SQNR, outliers" in shown
    assert "bits a value" not in run("E2M1").stdout


def test_a_matrix_of_a_file_is_rounded_in_its_blocks(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 0, 64)
    torch.save({"w": weight}, path)
    row = facts_of("MXFP8_E4M3", "--on", str(path))["tensors"][0]
    blocks = weight.view(-1, 32).double()
    scale = torch.exp2(torch.floor(torch.log2(blocks.abs().amax(1, keepdim=True))) - 8)
    rounded = (blocks / scale).clamp(-448, 448).float().to(torch.float8_e4m3fn).double() * scale
    noise = (blocks - rounded).square().sum()
    assert row["sqnr_db"] == pytest.approx(float(10 * torch.log10(blocks.square().sum() / noise)), abs=1e-4)
    assert row["scale"] is None
    assert "beyond float32" not in run("MXFP8_E4M3", "--on", str(path)).stdout
