"""Send a publication to a dataset repository of the Hugging Face Hub, through huggingface_hub."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from zookeeper.errors import InputError, PublishError
from zookeeper.publish.checksums import MANIFEST, hash_git, hash_sha256
from zookeeper.publish.folder import Publication
from zookeeper.publish.sending import Item, Sent, redact
from zookeeper.store.header import HEADER

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_KEPT = {".gitattributes", ".gitignore"}
_MOST_IN_FOLDER = 10_000
_PAUSES = (2.0, 10.0)


def plan_hub(publication: Publication) -> tuple[Item, ...]:
    """Say what is sent: every file under its own path.

    Raises
    ------
    InputError
        If a folder has more files than the Hub takes.
    """
    counts: dict[str, int] = {}
    for name in publication.sizes:
        folder = name.rpartition("/")[0]
        counts[folder] = counts.get(folder, 0) + 1
    crowded = [folder for folder, count in counts.items() if count > _MOST_IN_FOLDER]
    if crowded:
        raise InputError(
            f"{publication.path}/{crowded[0]}: {counts[crowded[0]]:,} files; the Hub takes {_MOST_IN_FOLDER:,} in a "
            "folder. Build the zoo with larger cohorts."
        )
    return tuple(Item(name, size) for name, size in publication.sizes.items())


def hub_client(endpoint: str | None = None) -> tuple[HfApi, str]:
    """A client of the Hub and its token: ``HF_TOKEN``, or what ``hf auth login`` has stored.

    Raises
    ------
    InputError
        If huggingface_hub is not installed, or nobody is logged in.
    """
    try:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import disable_progress_bars
    except ImportError as error:
        raise InputError(
            "hf: huggingface_hub is not installed. Install it: pip install 'weight-zookeeper[publish]'."
        ) from error
    token = get_token()
    if not token:
        raise InputError("hf: not logged in; expected HF_TOKEN in the environment, or a login: hf auth login.")
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(endpoint=endpoint, token=token), token


def send_hub(
    publication: Publication,
    repository: str,
    client: HfApi,
    token: str,
    *,
    private: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Sent:
    """Make a dataset repository hold exactly a publication.

    Only what the Hub does not hold yet is sent, so that the same call goes on after any failure. Files of an
    earlier publication that are no longer part of it are removed.

    Raises
    ------
    InputError
        If the repository holds something else than a publication.
    PublishError
        If the Hub refuses, or cannot be reached after three attempts.
    """
    from huggingface_hub.errors import HfHubHTTPError

    plan_hub(publication)
    transport = HfHubHTTPError.__bases__[0]  # of the HTTP library, which differs between releases of the Hub's
    for pause in (*_PAUSES, None):
        try:
            return _send(publication, repository, client, private)
        except (HfHubHTTPError, transport, OSError, RuntimeError) as error:  # failed uploads are RuntimeErrors there
            status = getattr(getattr(error, "response", None), "status_code", None)
            causes = [str(cause) for cause in (error, error.__cause__) if cause is not None]
            said = redact(" ".join(" ".join(causes).split()), token)
            if status in (401, 403):
                text = f"hf:{repository}: access refused ({said}). Check that the token is valid and may write there."
                raise PublishError(text) from None
            if pause is None or (isinstance(status, int) and status < 500 and status not in (408, 429)):
                raise PublishError(f"hf:{repository}: failed ({said}). The same command goes on.") from None
            sleep(pause)
    raise AssertionError


def _send(publication: Publication, repository: str, client: HfApi, private: bool) -> Sent:
    url = client.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
    present = set(client.list_repo_files(repository, repo_type="dataset")) - _KEPT
    names = set(publication.sizes)
    _check_repository(repository, present, names)
    stale = sorted(present - names)
    known = _known_files(publication, repository, client, names & present)
    client.upload_folder(
        repo_id=repository,
        repo_type="dataset",
        folder_path=publication.path,
        commit_message=f"Publish {publication.title}",
        delete_patterns=stale or None,
    )
    return Sent(str(url), tuple(sorted(names - known)), tuple(sorted(known)), tuple(stale))


def _check_repository(repository: str, present: Iterable[str], names: set[str]) -> None:
    """Accept an empty repository, a part of this publication, or an earlier one of any zoo."""
    there = set(present)
    if there <= names or {HEADER, MANIFEST} <= there:
        return
    stranger = sorted(there - names)[0]
    raise InputError(
        f"hf:{repository}: holds {stranger!r}, which this publication has not. Choose another repository, or empty it."
    )


def _known_files(publication: Publication, repository: str, client: HfApi, names: set[str]) -> set[str]:
    """Files that the Hub holds with the same bytes, by the hash it keeps: SHA-256 of large files, git's of others."""
    known = set()
    wanted = sorted(names)
    for start in range(0, len(wanted), 500):
        for entry in client.get_paths_info(repository, wanted[start : start + 500], repo_type="dataset"):
            path = publication.path / entry.path
            lfs = getattr(entry, "lfs", None)
            if lfs is not None:
                same = lfs.sha256 == hash_sha256(path)
            else:
                same = getattr(entry, "blob_id", None) == hash_git(path)
            if same:
                known.add(entry.path)
    return known
