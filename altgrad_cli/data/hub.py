"""A data set on the Hugging Face Hub -> a local folder, through huggingface_hub (extra ``hub``).

Only Parquet is fetched. Data sets that are a loading script on their main branch (MultiEURLEX) have been
converted to Parquet by the Hub, on the branch ``refs/convert/parquet``, which is tried second.
"""

from __future__ import annotations

from pathlib import Path

from altgrad_cli.errors import DataError

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
            where="data.hub",
            hint="pip install 'altgrad[hub]'",
        ) from error
    for branch in _BRANCHES:
        try:
            snapshot = huggingface_hub.snapshot_download(
                repository,
                repo_type="dataset",
                revision=branch,
                allow_patterns=[f"{config}/*.parquet" if config else "*.parquet"],
            )
        except Exception as error:  # what it raises depends on its HTTP library of the day
            raise _unreachable(name, error) from error
        folder = Path(snapshot, config)
        if any(folder.rglob("*.parquet")):
            return folder
    raise DataError(
        "the data set has no Parquet files of that name",
        where=f"data.hub={name}",
        allowed="owner/name or owner/name:config, as in coastalcph/lex_glue:eurlex",
    )


def _unreachable(name: str, error: Exception) -> DataError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DataError(
        f"the data set is neither cached nor to be had from the Hub: {reason}",
        where=f"data.hub={name}",
        hint=(
            "check the name and the network, or download it elsewhere and give data.path=;"
            " without both, leave data.hub out: the embedded corpus needs nothing"
        ),
    )
