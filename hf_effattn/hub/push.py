"""Publishes a checkpoint folder on the Hub as one commit.

The tests push to a stand-in for the Hub on the same machine, through the HTTP endpoints of git LFS. Two things are not
tested: the Hub itself, and the Xet storage that `huggingface_hub` uses if ``hf_xet`` is installed.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelInfo
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from yaml import YAMLError  # huggingface_hub reads cards with it

from ..models.base_compat import HTTP_ERROR
from .audit import check_is_checkpoint
from .checkpoint_files import check_unchanged
from .verify import TIME_LIMIT, verify_folder


#: A file that stays in the repository even if the folder does not have it: it says how git stores files.
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

    Exactly the verified files are sent, with the bytes that were verified; `audit_checkpoint` says which files are
    refused. The same commit deletes files that the folder no longer has, so no old code stays behind. The branch moves
    after everything is uploaded, or not at all. If somebody else has moved the branch in the meantime, the push fails.

    Args:
        folder: a checkpoint with its code and its card.
        repo_id: ``owner/name``; the repository is created if it does not exist.
        token: a token that may write; by default that of ``HF_TOKEN`` or of ``hf auth login``.
        private: visibility of the repository; None keeps it as it is, or takes the default of the owner.
        revision: the branch; it is created from ``main`` if it does not exist.
        message: the commit message.
        run_foreign_code: whether foreign code may run (see `verify_checkpoint`) and be sent.
        also: paths of further files, with other names, that are sent.
        time_limit: seconds for each process that loads the checkpoint.

    Returns:
        The 40 hexadecimal digits of the commit, for
        ``from_pretrained(repo_id, revision=commit, trust_remote_code=True)``. If nothing has changed, it is the
        existing commit.

    Raises:
        PermissionError: the token is missing or not valid.
        FileNotFoundError: there is no checkpoint, or no card.
        ValueError: `verify_folder` refuses the checkpoint; it has no code; a file was changed after it was verified;
            the metadata of the card is not valid; the card loads a tokenizer that does not exist; or the repository
            has another visibility than `private` says.
        RuntimeError: the checkpoint does not load in a clean process.
        TimeoutError: the clean process takes longer than `time_limit`.
        ConnectionError: a request failed or was refused. The branch is as it was, unless only the answer to the commit
            was lost. Pushing again is safe in any case.
    """
    folder = Path(folder)
    check_is_checkpoint(folder)
    api = HfApi(token=token)
    with _named_failures(repo_id):
        _check_token(api)
    _check_card(folder)
    audit = verify_folder(folder, run_foreign_code=run_foreign_code, also=also, time_limit=time_limit).audit
    if not audit.code:
        raise ValueError(
            f"{folder} has no code, which others need to load it: publish the folder that `hf-effattn export` writes"
        )
    additions = _additions(folder, audit.files)
    repo_id = _open_repository(api, repo_id, private)
    head = _upload(api, repo_id, revision, additions)
    # Weights are read during the upload. Before the commit, they are only unused objects of the repository.
    check_unchanged(folder, {file: digest for file, digest in audit.files.items() if file in audit.weights})
    with _named_failures(repo_id):
        return _commit(api, head, additions, revision, message or f"Upload {folder.resolve().name}")


def _upload(api: HfApi, repo_id: str, revision: str, additions: list[CommitOperationAdd]) -> ModelInfo:
    """Upload the files without a commit, and return the state of the branch before the commit."""
    with _named_failures(repo_id):
        if revision != "main":
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        head = api.model_info(repo_id, revision=revision)
        # `HfApi.upload_folder` may make several commits. With an empty gitignore_content, no .gitignore in the folder
        # or in the repository leaves files out silently.
        api.preupload_lfs_files(repo_id, additions, revision=revision, gitignore_content="", free_memory=False)
    return head


def _open_repository(api: HfApi, repo_id: str, private: bool | None) -> str:
    """Return the full name of the repository, which is created if it does not exist.

    Raises:
        ValueError: the repository exists and has another visibility than `private` says.
    """
    with _named_failures(repo_id):
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
    """Return the files to upload: weights by their paths, all other files as the bytes that were verified.

    Raises:
        ValueError: a file no longer has its hash.
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
def _named_failures(repo_id: str) -> Iterator[None]:
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
        raise ValueError(f"the metadata of README.md is not valid YAML: {error}") from error
    if "AutoTokenizer.from_pretrained" in card.text and not (folder / "tokenizer_config.json").is_file():
        raise ValueError(f"README.md loads a tokenizer, and {folder} has none: save it there, or change the example")
