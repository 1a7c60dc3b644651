"""From a checkpoint's folder, or its name on the hub, to the meta-model that it holds."""

from importlib import import_module
from pathlib import Path
from typing import Any

from metamodel.config.errors import InputError, require


def load(folder: str | Path) -> Any:
    """The `FunctionReader`, `SubjectEditor` or `SubjectMatcher` of a folder, as its config.json says.

    Where type checkers are to know which, there is `from_pretrained` of each class.

    Raises: InputError naming path, key, expected and found, if anything is missing, unknown or misshapen.
    """
    from metamodel.training.described import CONFIG, kind_of

    kind = kind_of(Path(folder))
    homes = {"function": "reading", "editing": "editing", "matching": "matching"}
    known = ", ".join(map(repr, homes))
    where = f"{Path(folder) / CONFIG}: kind"
    require(kind in homes, where, expected=f"one of {known}", got=repr(kind), do="Load another checkpoint.")
    return import_module(f"metamodel.{homes[str(kind)]}").load(folder)


def local_folder(name_or_folder: str | Path) -> Path:
    """The folder itself, or the one to which a name on the hub is downloaded.

    Raises: InputError if the name cannot be reached; a folder is not looked into.
    """
    if Path(name_or_folder).is_dir() or isinstance(name_or_folder, Path) or name_or_folder.count("/") != 1:
        return Path(name_or_folder)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name_or_folder, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        got = str(error).split("\n", 1)[0]
        raise InputError(
            name_or_folder, expected="a folder, or a name on the hub", got=got, do="Check name and network."
        ) from error


def uploaded(folder: Path | None, repository: str, what: str) -> str:
    """Uploads a checkpoint's folder with the user's own login, and returns its address.

    Raises: InputError if there is no folder.
    """
    from huggingface_hub import HfApi

    if folder is None:
        raise InputError(
            "push_to_hub", expected=f"{what} loaded from a folder", got="none", do="Save and load it."
        )
    HfApi().create_repo(repository, exist_ok=True)
    return str(HfApi().upload_folder(repo_id=repository, folder_path=folder))
