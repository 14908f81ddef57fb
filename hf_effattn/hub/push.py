"""Publish a checkpoint folder on the Hub as one commit.

The tests push to a stand-in for the Hub that runs on the same machine, through the HTTP endpoints of git LFS. The Xet
storage, which `huggingface_hub` uses where ``hf_xet`` is installed, and the Hub itself are not tested.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelInfo
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from yaml import YAMLError  # huggingface_hub reads cards with it

from ..models.base_compat import HTTP_ERROR
from .audit import check_is_checkpoint
from .checkpoint_files import unchanged
from .verify import TIME_LIMIT, verify_folder


#: What a repository keeps although the folder does not have it: how git stores its files.
KEPT = ".gitattributes"


def push_checkpoint(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str = "main",
    message: str | None = None,
    run_foreign_code: bool = False,
    also: Collection[str] = (),
    time_limit: float = TIME_LIMIT,
) -> str:
    """Verify a checkpoint, then make a branch of a repository equal to it, in one commit.

    What is sent are the files that were verified, each with the bytes that it had then: links, hidden files and files
    of other names are refused, see `audit_checkpoint`. Files that the folder does not have any more are deleted by the
    same commit, so that no old code stays behind. The branch moves once everything is uploaded, or not at all; if
    somebody else has moved it meanwhile, the push fails.

    Args:
        folder: a checkpoint with its code and its card.
        repo_id: ``owner/name``; made if it does not exist.
        token: a token that may write; by default that of ``HF_TOKEN`` or of ``hf auth login``.
        private: whether the repository is to be private; None for that of the one there is, or the owner's default.
        revision: the branch; made from ``main`` if it does not exist.
        message: that of the commit.
        run_foreign_code: whether code that is not this package's own may run, see `verify_checkpoint`, and be sent.
        also: files of other names that are to be sent, as paths in the folder.
        time_limit: seconds for the process that loads the checkpoint on its own.

    Returns:
        The commit's 40 hexadecimal digits, to be loaded as
        ``from_pretrained(repo_id, revision=commit, trust_remote_code=True)``. If nothing has changed, the commit
        that is there.

    Raises:
        PermissionError: the token is missing or not valid.
        FileNotFoundError: there is no checkpoint, or no card.
        ValueError: `verify_folder` refuses the checkpoint, it has no code, a file was changed after it was verified,
            the metadata of the card is not valid, the card loads a tokenizer that is not there, or the repository
            exists and is not as `private` says.
        RuntimeError: the checkpoint does not load on its own.
        TimeoutError: that takes longer than `time_limit`.
        ConnectionError: a request failed or was refused. The branch is as it was, unless the answer to the commit is
            all that was lost; pushing again is safe in any case.
    """
    folder = Path(folder)
    check_is_checkpoint(folder)
    api = HfApi(token=token)
    with _failures_named(repo_id):
        _check_token(api)
    _check_card(folder)
    audit = verify_folder(folder, run_foreign_code=run_foreign_code, also=also, time_limit=time_limit).audit
    if not audit.code:
        raise ValueError(f"{folder} has no code, which others need to load it: publish what `hf-effattn export` makes")
    additions = _additions(folder, audit.files)
    repo_id = _open_repository(api, repo_id, private)
    head = _upload(api, repo_id, revision, additions)
    # Weights are read while they are uploaded. So far, they are nothing but unused objects of the repository.
    unchanged(folder, {file: digest for file, digest in audit.files.items() if file in audit.weights})
    with _failures_named(repo_id):
        return _commit(api, head, additions, revision, message or f"Upload {folder.resolve().name}")


def _upload(api: HfApi, repo_id: str, revision: str, additions: list[CommitOperationAdd]) -> ModelInfo:
    """Upload the files, of which no branch knows yet; returns what the branch is before the commit."""
    with _failures_named(repo_id):
        if revision != "main":
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        head = api.model_info(repo_id, revision=revision)
        # `HfApi.upload_folder` may cut what it uploads into several commits. The empty gitignore_content keeps a
        # .gitignore, here or there, from leaving files out without a word.
        api.preupload_lfs_files(repo_id, additions, revision=revision, gitignore_content="", free_memory=False)
    return head


def _open_repository(api: HfApi, repo_id: str, private: bool | None) -> str:
    """The full name of the repository, which is made if it is not there.

    Raises:
        ValueError: it is there, and not as `private` says.
    """
    with _failures_named(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        found = api.model_info(repo_id).private
    if private is not None and found != private:
        kind, other = ("private", "public") if found else ("public", "private")
        raise ValueError(
            f"{repo_id} exists and is {kind}, not {other}: change that in its settings, or leave `private` out; "
            "nothing was uploaded"
        )
    return repo_id


def _additions(folder: Path, hashes: dict[str, str]) -> list[CommitOperationAdd]:
    """What to upload: the weights by their paths, everything else in the bytes that were verified.

    Raises:
        ValueError: a file is not what its hash says any more.
    """
    additions = []
    for path, digest in hashes.items():
        file = folder.resolve() / path
        changed = not file.is_file()
        if not changed:
            additions.append(CommitOperationAdd(path, file if path.endswith(".safetensors") else file.read_bytes()))
            changed = additions[-1].upload_info.sha256.hex() != digest
        if changed:
            raise ValueError(f"{folder} was changed after it was verified: {path}; nothing was uploaded")
    return additions


def _commit(api: HfApi, head: ModelInfo, additions: list[CommitOperationAdd], revision: str, message: str) -> str:
    """Make the branch equal to the folder, and return the commit."""
    gone = {file.rfilename for file in head.siblings or []} - {file.path_in_repo for file in additions} - {KEPT}
    deletions = [CommitOperationDelete(path) for path in sorted(gone)]
    return api.create_commit(
        head.id, [*additions, *deletions], commit_message=message, revision=revision, parent_commit=head.sha
    ).oid


@contextmanager
def _failures_named(repo_id: str) -> Iterator[None]:
    try:
        yield
    except (HTTP_ERROR, RuntimeError) as error:
        raise ConnectionError(f"the push to {repo_id} failed: {error}") from error


def _check_token(api: HfApi) -> None:
    try:
        api.whoami()
    except LocalTokenNotFoundError as error:
        raise PermissionError(
            "no token found: pass one that may write, set HF_TOKEN, or run `hf auth login`"
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code != 401:
            raise
        remedy = "pass another one that may write, set HF_TOKEN, or run `hf auth login`"
        raise PermissionError(f"{api.endpoint} does not know the token: {remedy}; nothing was uploaded") from error


def _check_card(folder: Path) -> None:
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{folder} has no README.md: write a model card, for example with `hf-effattn card`")
    try:
        card = ModelCard.load(folder / "README.md")
    except YAMLError as error:
        raise ValueError(f"the metadata of README.md is no YAML: {error}") from error
    if "AutoTokenizer.from_pretrained" in card.text and not (folder / "tokenizer_config.json").is_file():
        raise ValueError(f"README.md loads a tokenizer, and {folder} has none: save it there, or change the example")
