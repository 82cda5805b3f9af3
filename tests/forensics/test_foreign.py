"""Files that altgrad did not write: every tensor has a row, or a reason for having none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from altgrad_cli.errors import CheckpointError
from altgrad_cli.forensics import diagnosis
from altgrad_cli.forensics.diagnosis import Questions
from altgrad_cli.formats import parse_format
from altgrad_cli.reporting.blocks.document import Table
from altgrad_cli.reporting.pages.diagnosis.page import diagnosis_page
from altgrad_cli.reporting.pages.format.facts import StallQuestion
from altgrad_cli.reporting.pages.format.fit import TensorFit, fit_file
from altgrad_cli.reporting.render.markdown import to_markdown
from tests.forensics.conftest import diagnose


def diagnosed(path: Path) -> dict[str, Any]:
    found = diagnosis.diagnose(path, Questions(format="E5M2"))
    assert to_markdown(diagnosis_page(found), None).startswith("# ")
    return found.to_json()


def screen_of(path: Path) -> dict[str, str]:
    table = diagnosis_page(diagnosis.diagnose(path, Questions())).sections[0].blocks[0]
    assert isinstance(table, Table)
    return dict(zip(table.labels, (cells[0] for cells in table.cells), strict=True))


def saved(path: Path, value: Any, *, legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def rows_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in document["layers"]}


def left_out_of(document: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["reason"] for entry in document["not_judged"]}


def fits_of(path: Path) -> dict[str, TensorFit]:
    fits, _ = fit_file(path, parse_format("E5M2"), StallQuestion())
    return {fit.name: fit for fit in fits}


@pytest.mark.parametrize(
    "file, failure, rows, left_out",
    [
        ("fp4.safetensors", "none", {"w"}, {"fp4"}),
        ("f64big.pt", "none", {"big", "ok"}, set()),
        ("f64_2d_big.safetensors", "none", {"huge"}, set()),
        ("collide_hide.pt", "nonfinite", {"['a.b']", "['a']['b']"}, set()),
        ("complex_nan.safetensors", "nonfinite", {"c", "w"}, set()),
        ("complex.pt", "nonfinite", {"c", "cn", "w"}, set()),
        ("intonly.pt", "not_judged", set(), {"only"}),
        ("nc_expand.pt", "none", {"e"}, set()),
        ("schema_small.pt", "none", {"w", "m"}, set()),
        ("infmask.pt", "none", {"w"}, {"mask"}),
    ],
)
def test_the_field_cases(
    field_cases: Path, file: str, failure: str, rows: set[str], left_out: set[str]
) -> None:
    document = diagnosed(field_cases / "checkpoints" / file)
    assert document["failure"]["class"] == failure
    assert rows_of(document).keys() == rows
    assert left_out_of(document).keys() == left_out


@pytest.mark.parametrize("file", ["legacy.pt", "sharded", "sharded/model.safetensors.index.json"])
def test_a_model_in_an_old_file_or_in_shards_is_whole(field_cases: Path, file: str) -> None:
    document = diagnosed(field_cases / "checkpoints" / file)
    assert document["failure"]["class"] == "none"
    assert len(document["layers"]) == 22
    assert left_out_of(document).keys() == {"h.0.attn.bias", "h.1.attn.bias"}
    assert len(fits_of(field_cases / "checkpoints" / file)) == 10


def test_a_legacy_file_reads_as_torch_reads_it(field_cases: Path, tmp_path: Path) -> None:
    from altgrad_cli.checkpoints.file import open_archive

    value = {
        "half": torch.arange(6.0).half().reshape(2, 3).t(),
        "shared": torch.arange(9.0),
        "brain": torch.ones(3, dtype=torch.bfloat16),
        "complex": torch.tensor([1 + 2j]),
        "empty": torch.empty(0, 3),
        "step": 3,
    }
    value["view"] = value["shared"][2:5]
    for path in (field_cases / "checkpoints" / "legacy.pt", saved(tmp_path / "old.pt", value, legacy=True)):
        mine, theirs = open_archive(path).contents, torch.load(path, weights_only=True)
        assert list(mine) == list(theirs)
        for key, expected in theirs.items():
            assert mine[key] == expected if key == "step" else torch.equal(mine[key], expected)


def test_a_damaged_legacy_file_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = saved(tmp_path / "old.pt", {"w": torch.arange(8.0)}, legacy=True).read_bytes()
    for length in range(1, len(whole), 7):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            diagnose(tmp_path / "cut.pt", Questions())


def test_a_legacy_file_that_names_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path = saved(tmp_path / "evil.pt", {"w": torch.ones(1), "run": os.getcwd}, legacy=True)
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        diagnose(path, Questions())


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize(
    "dtype", [torch.float4_e2m1fn_x2, torch.uint8, torch.int8, torch.bool, torch.uint16, torch.int64]
)
def test_a_type_without_real_values_is_listed_and_not_judged(
    dtype: torch.dtype, ending: str, tmp_path: Path
) -> None:
    raw = torch.zeros(4, 8, dtype=torch.uint8)
    tensors = {"packed": raw.view(dtype), "w": torch.eye(4)}
    path = tmp_path / f"x.{ending}"
    if ending == "pt":
        saved(path, tensors)
    else:
        save_file(tensors, path)
    document = diagnosed(path)
    assert document["failure"]["class"] == "none"
    assert left_out_of(document).keys() == {"packed"}
    assert fits_of(path).keys() == {"w"}


def test_a_type_that_torch_has_not_is_named(tmp_path: Path) -> None:
    header = {
        "six": {"dtype": "F6_E2M3", "shape": [8], "data_offsets": [0, 6]},
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [6, 10]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(10))
    document = diagnosed(tmp_path / "x.safetensors")
    assert left_out_of(document) == {"six": "torch has no type F6_E2M3"}
    assert rows_of(document).keys() == {"w"}


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.float8_e4m3fn, torch.complex128])
def test_a_type_with_a_cast_is_judged(dtype: torch.dtype, tmp_path: Path) -> None:
    raw = torch.full((4, 4), 0xFF if dtype.itemsize == 1 else 0, dtype=torch.uint8)
    tensor = raw.view(dtype) if dtype.itemsize == 1 else torch.full((4, 4), torch.nan).to(dtype)
    document = diagnosed(saved(tmp_path / "x.pt", {"x": tensor}))
    assert document["failure"] == {"class": "nonfinite", "step": None, "nonfinite_count": 16}


def test_float64_is_counted_as_float64(tmp_path: Path) -> None:
    tensors = {
        "large": torch.tensor([[1e300, -1.0, 0.0, torch.inf]], dtype=torch.float64),
        "small": torch.tensor([[1e-300, 2e-300, 0.0, -1e-300]], dtype=torch.float64),
    }
    path = saved(tmp_path / "x.pt", tensors)
    rows = rows_of(document := diagnosed(path))
    assert (rows["large"]["nonfinite_weights"], rows["large"]["amax"]) == (1, 1e300)
    assert rows["large"]["zero_share"] == rows["small"]["zero_share"] == 0.25
    assert rows["small"]["rounded_to_zero"] == 1.0
    assert any("beyond float32" in finding["text"] for finding in document["findings"])
    fits = fits_of(path)
    assert (fits["large"].nonfinite, fits["large"].amax, fits["large"].scale) == (1, 1e300, None)
    assert fits["small"].underflow == 1.0


@pytest.mark.parametrize(
    "value, names",
    [
        ({"a.b": 1, "a": {"b": 2}}, {"['a.b']", "['a']['b']"}),
        ({1: 1, "1": 2}, {"[1]", "['1']"}),
        ({"a": [1, {"x": 2}], "a.1.x": 3}, {"a.0", "['a'][1]['x']", "['a.1.x']"}),
        ({"_orig_mod.module.w": 1, "module": {"w": 2}}, {"_orig_mod.module.w", "module.w"}),
    ],
)
def test_every_tensor_has_a_row_of_its_own(value: Any, names: set[str], tmp_path: Path) -> None:
    def filled(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: filled(below) for key, below in item.items()}
        return [filled(below) for below in item] if isinstance(item, list) else torch.full((2, 2), item + 0.5)

    assert rows_of(diagnosed(saved(tmp_path / "x.pt", filled(value)))).keys() == names


@pytest.mark.parametrize(
    "tensors",
    [{}, {"ids": torch.arange(3)}, {"none": torch.empty(0, 3)}, {"mask": torch.ones(3, dtype=torch.bool)}],
)
def test_nothing_to_judge_is_not_healthy(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"n": torch.tensor(3), **tensors})
    document = diagnosed(path)
    assert document["failure"]["class"] == "not_judged"
    assert diagnosis_page(diagnosis.diagnose(path, Questions())).title.startswith("nothing to judge")
    assert f"all {1 + len(tensors)} tensors are left out" in document["findings"][0]["text"]


@pytest.mark.parametrize(
    "tensor, masks",
    [
        (torch.full((1, 1, 5, 5), -torch.inf).triu(1), True),
        (torch.full((2, 2), -torch.inf, dtype=torch.float16).triu(1), True),
        (torch.tensor([0.0, -torch.inf]), False),  # a bias that was hit
        (torch.tensor([[0.0, torch.inf]]), False),
        (torch.tensor([[0.0, -torch.inf, torch.nan]]), False),
        (torch.tensor([[0.5, -torch.inf]]), False),
        (torch.full((2, 2), -torch.inf), False),
        (torch.zeros(64, 64).index_put((torch.tensor(3), torch.tensor(4)), torch.tensor(-torch.inf)), False),
    ],
)
def test_a_mask_is_set_apart_and_a_failure_is_not(tensor: torch.Tensor, masks: bool, tmp_path: Path) -> None:
    document = diagnosed(saved(tmp_path / "x.pt", {"causal": tensor, "w": torch.eye(3)}))
    assert document["failure"]["class"] == ("none" if masks else "nonfinite")
    assert left_out_of(document) == ({"causal": "a mask of 0 and -inf"} if masks else {})


def test_expanded_and_overlapping_tensors_are_read_and_an_endless_one_is_not(tmp_path: Path) -> None:
    base = torch.arange(1.0, 9.0)
    tensors = {"expanded": base[:4].expand(100, 4), "windows": base.unfold(0, 3, 1)}
    rows = rows_of(diagnosed(saved(tmp_path / "x.pt", tensors)))
    assert rows["expanded"]["shape"] == [100, 4]
    assert rows["windows"]["amax"] == 8.0
    with pytest.raises(CheckpointError, match="expanded"):
        diagnose(saved(tmp_path / "bomb.pt", {"x": torch.ones(1).expand(1 << 40)}), Questions())


@pytest.mark.parametrize(
    "words",
    [
        {"schema": 3},
        {"schema": {"version": 2}, "content_hash": "x"},
        {"content_hash": "x", "config": {}},
        {"schema": "altgrad-checkpoint/1", "content_hash": "x"},
        {"kind": "regular", "step": 3, "weights": {}},
    ],
)
def test_only_the_seal_makes_a_file_altgrads(words: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {**words, "w": torch.eye(3)})
    document = diagnosed(path)
    assert rows_of(document).keys() == {"w"}
    unsealed = any("not altgrad's seal" in finding["text"] for finding in document["findings"])
    assert unsealed == (words.get("schema") == "altgrad-checkpoint/1")
    assert fits_of(path).keys() == {"w"}


def shards(folder: Path, *, ending: str = "safetensors", index: bool = True) -> Path:
    folder.mkdir()
    names = [f"model-0000{n}-of-00002.{ending}" for n in (1, 2)]
    for number, name in enumerate(names):
        tensors = {f"layer.{number}.weight": torch.eye(3)}
        if ending == "safetensors":
            save_file(tensors, folder / name)
        else:
            saved(folder / name, tensors)
    if index:
        weight_map = {f"layer.{number}.weight": name for number, name in enumerate(names)}
        (folder / f"model.{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("index", [True, False])
def test_shards_are_one_model_and_a_missing_one_is_named(ending: str, index: bool, tmp_path: Path) -> None:
    folder = shards(tmp_path / "model", ending=ending, index=index)
    assert rows_of(diagnosed(folder)).keys() == {"layer.0.weight", "layer.1.weight"}
    (folder / f"model-00002-of-00002.{ending}").unlink()
    with pytest.raises(CheckpointError, match=f"missing: model-00002-of-00002.{ending}"):
        diagnose(folder, Questions())


@pytest.mark.parametrize("index", [True, False])
def test_a_tensor_in_two_shards_has_two_rows(index: bool, tmp_path: Path) -> None:
    """The index places it in the first; a loader that reads both lets the last win."""
    folder = shards(tmp_path / "model", index=index)
    stray = {"layer.0.weight": torch.full((3, 3), torch.nan), "layer.1.weight": torch.eye(3)}
    save_file(stray, folder / "model-00002-of-00002.safetensors")
    bad = {name: row["nonfinite_weights"] for name, row in rows_of(diagnosed(folder)).items()}
    first, second = (f"model-0000{n}-of-00002.safetensors.layer.0.weight" for n in (1, 2))
    assert bad == {first: 0, second: 9, "layer.1.weight": 0}


def test_an_index_is_held_to_its_folder_and_a_shard_to_its_index(tmp_path: Path) -> None:
    index = shards(tmp_path / "model") / "model.safetensors.index.json"
    for name in ("../secret.safetensors", "/etc/passwd", ".."):
        index.write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(CheckpointError, match="outside its folder"):
            diagnose(index, Questions())
    index.write_text(json.dumps({"weight_map": {"other": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match="lacks 1 tensors"):
        diagnose(index, Questions())
    for text in ("[]", "{", '{"weight_map": {}}', '{"weight_map": 3}'):
        index.write_text(text)
        with pytest.raises(CheckpointError):
            diagnose(index, Questions())


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.bin", "model.safetensors.index.json"])
def test_a_git_lfs_pointer_and_a_pipe_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234\n")
    with pytest.raises(CheckpointError, match=r"git-lfs pointer.*1,234 bytes"):
        diagnose(path, Questions())
    path.unlink()
    os.mkfifo(path)
    for read in (lambda: diagnose(path, Questions()), lambda: fits_of(path)):
        with pytest.raises(CheckpointError, match="a pipe"):
            read()


@pytest.mark.parametrize("ending, checks", [("safetensors", []), ("pt", ["record checksums"])])
def test_only_checksums_that_exist_are_called_verified(
    ending: str, checks: list[str], tmp_path: Path
) -> None:
    path = tmp_path / f"x.{ending}"
    if ending == "pt":
        saved(path, {"w": torch.eye(3)})
    else:
        save_file({"w": torch.eye(3)}, path)
    document = diagnosed(path)
    assert document["trust"]["verified"] == checks
    assert ("nothing verified" in screen_of(path)["trust"]) == (not checks)
