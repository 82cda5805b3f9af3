"""A user's own subject: what the engine relies on is asked of it first, and refused in words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from altgrad_cli import Batch, Subject
from altgrad_cli.errors import ConfigError, UsageError
from altgrad_cli.subjects.built_in import load_subject
from altgrad_cli.subjects.trial import try_out
from altgrad_cli.subjects.yours import load_yours, subject_named
from tests.small import small

GOOD = """
import torch
from torch import nn
from torch.nn import functional as F
from altgrad_cli import Batch, Subject

data = torch.randn(64, 4)

def build(generator):
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

def draw(generator):
    x = data[torch.randint(64, (8,), generator=generator)]
    return Batch(x=x, y=x[:, :2] * x[:, 2:])

def make(config):
    return Subject(build, F.mse_loss, draw, draw)
"""


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def refused(folder: Path, text: str, function: str = "make") -> UsageError:
    with pytest.raises(UsageError) as error:
        load_yours(f"{written(folder, text)}:{function}", small())
    return error.value


def test_a_module_of_the_current_folder_and_a_file_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "make = __import__('a_neighbour_of_mine').make", "a_module_of_mine.py")
    written(tmp_path, GOOD, "a_neighbour_of_mine.py")
    for name in ("a_module_of_mine:make", "a_module_of_mine.py:make"):
        assert load_yours(name, small()).loss is F.mse_loss


def test_its_own_draws_start_at_the_seed_and_move_no_other_stream(tmp_path: Path) -> None:
    stream = torch.get_rng_state()
    drawn = [
        load_yours(f"{written(tmp_path, GOOD, f'{name}.py')}:make", small(f"seed={seed}")).train
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    ]
    batches = [draw(torch.Generator().manual_seed(3)).x for draw in drawn if draw is not None]
    assert torch.equal(batches[0], batches[1]) and not torch.equal(batches[0], batches[2])
    assert torch.equal(stream, torch.get_rng_state())


@pytest.mark.parametrize("named", [None, "gpt"])
def test_a_configuration_alone_loads_nothing(tmp_path: Path, named: str | None) -> None:
    path = written(tmp_path, f"open({str(tmp_path / 'was_run')!r}, 'w')")
    config = small(f"subject={path}:make")
    with pytest.raises(UsageError, match="only where the command line names it") as error:
        subject_named(config, named)
    assert error.value.hint == f"if you trust it, add: subject={path}:make"
    with pytest.raises(UsageError, match="is code of your own"):
        load_subject(config)
    assert not (tmp_path / "was_run").exists()


def test_a_built_in_subject_is_none_of_the_users() -> None:
    assert subject_named(small(), None) is None


@pytest.mark.parametrize("word", ["eurovock", "my model:make", "make", "a:b:c", ":make", "mine:"])
def test_what_names_no_subject_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="subject") as error:
        small(f"subject={word}")
    assert "module:function" in str(error.value.allowed)


def test_mistakes_are_said_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no module no_such_module_anywhere"):
        load_yours("no_such_module_anywhere:make", small())
    with pytest.raises(UsageError, match="there is no file"):
        load_yours("no_such_file.py:make", small())
    assert str(refused(tmp_path, GOOD, "mak").hint).endswith("mine.py:make?")
    faults = {
        "import no_such_library": ("ModuleNotFoundError", "line 1"),
        "def make(config):\n    return 1 / 0": ("ZeroDivisionError", "line 2"),
        "def make(:": ("SyntaxError", "line 1"),
        "import sys\nsys.exit(3)": ("SystemExit: 3", "line 2"),
        "def make():\n    pass": ("TypeError", ""),
    }
    for number, (text, (kind, line)) in enumerate(faults.items()):
        (tmp_path / str(number)).mkdir()
        error = refused(tmp_path / str(number), text)
        assert kind in error.message and line in str(error.where)
    (tmp_path / "none").mkdir()
    error = refused(tmp_path / "none", "def make(config):\n    pass")
    assert error.message.endswith("returned a NoneType") and "TrainConfig" in str(error.allowed)


def draw(generator: torch.Generator) -> Batch:
    x = torch.randn(8, 4, generator=generator)
    return Batch(x=x, y=x[:, :2].clone())


def net(generator: torch.Generator) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, generator: torch.Generator) -> nn.Module:
        return net(generator)


class Drawing(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(super().forward(x), 0.1)


class Counting(nn.Sequential):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.calls * super().forward(x)


def with_extra(generator: torch.Generator) -> nn.Module:
    model = net(generator)
    model.extra = nn.Parameter(torch.zeros(3))
    return model


def frozen(generator: torch.Generator) -> nn.Module:
    model = net(generator)
    next(model.parameters()).requires_grad_(False)
    return model


def nothing_to_round(generator: torch.Generator) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(4), nn.ReLU())


def unseeded(generator: torch.Generator) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.seed()
        return net(generator)


ONE = net(torch.Generator())

REFUSALS: dict[str, Callable[[], Subject]] = {
    "build cannot be hashed": lambda: Subject(Unhashable(), F.mse_loss, draw, draw),
    "other weights each time": lambda: Subject(unseeded, F.mse_loss, draw, draw),
    "gives the same model again": lambda: Subject(lambda generator: ONE, F.mse_loss, draw, draw),
    "no layer that altgrad rounds": lambda: Subject(nothing_to_round, F.mse_loss, draw, draw),
    "build returned a int": lambda: Subject(lambda generator: 3, F.mse_loss, draw, draw),  # type: ignore[arg-type,return-value]
    "calls a layer 'tail'": lambda: Subject(net, F.mse_loss, draw, draw, lambda name: "tail"),  # type: ignore[arg-type,return-value]
    "0.weight is torch.float64": lambda: Subject(lambda g: net(g).double(), F.mse_loss, draw, draw),
    "0.weight is frozen": lambda: Subject(frozen, F.mse_loss, draw, draw),
    "no validation batches": lambda: Subject(net, F.mse_loss, draw, None),
    "drew a Tensor": lambda: Subject(net, F.mse_loss, lambda g: draw(g).x, draw),  # type: ignore[arg-type,return-value]
    "another batch from the same": lambda: Subject(
        net, F.mse_loss, lambda g: Batch(torch.randn(8, 4), torch.zeros(8, 2)), draw
    ),
    "draws random numbers": lambda: Subject(lambda g: Drawing(*net(g)), F.mse_loss, draw, draw),
    "it remembers something": lambda: Subject(lambda g: Counting(*net(g)), F.mse_loss, draw, draw),
    "does not depend on the parameter extra": lambda: Subject(with_extra, F.mse_loss, draw, draw),
    "no 0-d tensor": lambda: Subject(net, lambda o, t, reduction="": (o - t) ** 2, draw, draw),  # type: ignore[arg-type]
    "no number a target": lambda: Subject(net, lambda o, t, reduction="": ((o - t) ** 2).mean(), draw, draw),
}


@pytest.mark.parametrize("words", REFUSALS)
def test_what_cannot_be_repeated_is_refused(words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        try_out(REFUSALS[words]())
    assert error.value.hint or error.value.allowed or "validation" in words


def test_dropout_and_a_batchnorm_are_no_reason_to_refuse() -> None:
    def build(generator: torch.Generator) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(4), *net(generator))

    try_out(Subject(build, F.mse_loss, draw, draw))


def test_a_name_space_stands_for_nothing() -> None:
    """The seam is the class itself: something that only looks like it is told so."""
    assert not isinstance(SimpleNamespace(build=net), Subject)
