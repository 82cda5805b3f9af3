"""A user's own subject: the function that a command line names, called, and what it gives looked at.

Code is loaded only where the command line names it, never because a configuration, a checkpoint or a run's
folder does: those may come from anywhere.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from altgrad_cli.config.run import OBSERVED, TrainConfig, is_code
from altgrad_cli.errors import AltgradError, UsageError, nearest
from altgrad_cli.subjects.subject import Subject
from altgrad_cli.subjects.trial import try_build, try_out

_SHAPE = "a function that takes the TrainConfig and returns an altgrad_cli.Subject"


def subject_named(
    config: TrainConfig, named: str | None, *, say: str = "subject={}", observed: bool = False
) -> Subject | None:
    """The user's subject of ``config``; None where it is one that altgrad has itself.

    Args:
        named: what the command line names; the only code that is loaded.
        say: how the command line names it, for the hint.
        observed: as ``load_yours``.

    Raises:
        UsageError: the command line does not name the configuration's own, or that cannot be used.
    """
    if not is_code(config.subject):
        return None
    if config.subject == OBSERVED and named in (None, OBSERVED):
        raise UsageError(
            "this is of a loop of one's own, and what its model is was not said (observe's subject=...)",
            where="subject",
            allowed="a function that builds the model, as an altgrad_cli.Subject",
            hint=f"add: {say.format('MODULE:FUNCTION')}",
        )
    if named is None or not is_code(named):
        raise UsageError(
            f"the subject {config.subject} is code, and code is loaded only where the command line names it",
            where="subject",
            hint=f"if you trust it, add: {say.format(config.subject)}",
        )
    return load_yours(named, config, observed=observed)


def load_yours(name: str, config: TrainConfig, *, observed: bool = False) -> Subject:
    """What the function ``name`` (``module:function`` or ``file.py:function``) makes of it, tried out.

    The current folder can be imported from, as under ``python -m``; of a file, its own folder.
    Its random draws, from torch's default stream, start at the seed of ``config``.

    Args:
        observed: a loop of its own has trained it, and its step is to be taken again: it need only be built.

    Raises:
        UsageError: it is not there, fails, or gives what cannot be trained so that a step can be repeated.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        try:
            subject = _function(name)(config)
            if not isinstance(subject, Subject):
                raise UsageError(f"{name} returned a {type(subject).__name__}", where=name, allowed=_SHAPE)
            (try_build if observed else try_out)(subject)
        except AltgradError as error:
            error.where = error.where or name
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"{name} failed: {type(error).__name__}: {error}".splitlines()[0],
                where=_place(error),
                hint="ALTGRAD_DEBUG=1 shows the traceback",
            ) from error
    return subject


def source_of(name: str) -> str | None:
    """SHA-256, shortened to 16 hex digits, of the file of ``module:function`` as it is now.

    None where it is no such name, or was not loaded by this process: nothing is loaded here.
    """
    place = name.rpartition(":")[0] if is_code(name) else ""
    module = sys.modules.get(str(Path(place).resolve()) if place.endswith(".py") else place)
    file = getattr(module, "__file__", None)
    try:
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    except OSError:
        return None


def _function(name: str) -> Callable[[TrainConfig], object]:
    place, _, attribute = name.rpartition(":")
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    function = getattr(module, attribute, None)
    if not callable(function):
        own = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        guess = nearest(attribute, own)
        raise UsageError(
            f"{place} has no function {attribute}" if function is None else f"{name} is not a function",
            where=name,
            allowed=_SHAPE,
            hint=f"did you mean {place}:{guess}?" if guess else None,
        )
    found: Callable[[TrainConfig], object] = function
    return found


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _module(name: str) -> ModuleType:
    _importable(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # of something that the module imports itself
        raise UsageError(
            f"there is no module {error.name}",
            where=name,
            allowed="a module in the current folder or an installed one, or path/to/file.py:function",
            hint="start altgrad in the folder that python -m would find it from",
        ) from None


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(
            f"there is no file {path}", where=str(path), hint="the path is from the current folder"
        )
    resolved = path.resolve()
    name = str(resolved)  # two files of one name are two modules
    if name in sys.modules:
        return sys.modules[name]
    _importable(resolved.parent)
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _place(error: BaseException) -> str | None:
    """Where in the user's own code it happened, as far down as that goes."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    house = str(Path(__file__).resolve().parents[1])
    libraries = ("site-packages", "<frozen", str(Path(importlib.__file__).parent))
    own = [
        each
        for each in frames
        if not (each.filename.startswith(house) or any(part in each.filename for part in libraries))
    ]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else None
