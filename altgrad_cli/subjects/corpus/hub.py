"""A data set on the Hugging Face Hub -> a local folder, through huggingface_hub (extra ``hub``).

Only Parquet is fetched. Data sets that are a loading script on their main branch (MultiEURLEX) have been
converted to Parquet by the Hub, on the branch ``refs/convert/parquet``, which is tried second. What is in
the Hub's own cache on this machine is used without a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altgrad_cli.deadline import within
from altgrad_cli.errors import DataError

ANSWER_SECONDS = 4.0
_BRANCHES = ("main", "refs/convert/parquet")


def fetch(name: str) -> Path:
    """The local folder of ``owner/name`` or ``owner/name:config``, downloaded unless it is cached.

    Raises DataError when huggingface_hub is missing, when the data set is neither cached nor reachable,
    and when it has no Parquet files under that name.
    """
    repository, _, config = name.partition(":")
    try:
        import huggingface_hub
    except ImportError as error:
        raise DataError(
            "data.hub needs huggingface_hub, which is not installed",
            where=f"data.hub={name}",
            hint="pip install 'altgrad[hub]'",
        ) from error
    wanted = [f"{config}/*.parquet" if config else "*.parquet"]
    refusal: Exception | None = None
    found = False
    for branch in _BRANCHES:
        if refusal is None:
            refusal = _refusal(huggingface_hub.HfApi(), repository, branch)
        try:
            snapshot = huggingface_hub.snapshot_download(
                repository,
                repo_type="dataset",
                revision=branch,
                allow_patterns=wanted,
                local_files_only=refusal is not None,
            )
        except Exception as error:  # noqa: BLE001 (depends on its HTTP library of the day)
            refusal = refusal or error
            continue
        found = True
        folder = Path(snapshot, config)
        if any(folder.rglob("*.parquet")):
            return folder
    if found or refusal is None:
        raise DataError(
            "the data set has no Parquet files of that name",
            where=f"data.hub={name}",
            allowed="owner/name or owner/name:config, as in coastalcph/lex_glue:eurlex",
        )
    raise DataError(
        f"the data set is neither cached nor to be had from the Hub: {_in_short(refusal)}",
        where=f"data.hub={name}",
        hint=(
            "check the name and the network, or download it elsewhere and give data.path=;"
            " without both, leave data.hub out: the embedded corpus needs nothing"
        ),
    ) from refusal


def _refusal(api: Any, repository: str, branch: str) -> Exception | None:
    """Why the Hub does not answer for this data set within ``ANSWER_SECONDS``; None when it does.

    Asked first, because huggingface_hub waits without limit for a peer that accepts the connection and then
    stays silent.
    """
    try:
        within(
            ANSWER_SECONDS,
            lambda: api.repo_info(repository, repo_type="dataset", revision=branch, timeout=ANSWER_SECONDS),
        )
    except Exception as error:  # noqa: BLE001 (handed over, not swallowed)
        return error
    return None


def _in_short(error: Exception) -> str:
    """The first line of what went wrong."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
