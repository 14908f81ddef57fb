"""A process that talks to the loopback hub: ``python client.py '[["step", {…}], …]'`` prints what the steps return.

`huggingface_hub` reads its environment when it is imported, so what needs the hub runs in such a process. A step that
raises gives ``{"error": …}``, and the next one runs all the same.
"""

import json
import sys
import time


TEXTS = ["A film to remember.", "Two hours I want back."]

# What breaks off is tried again after pauses of up to eight seconds.
time.sleep = lambda seconds: None


def push(folder, repo_id, verified=False, **options):
    """Our own way; the verification starts a further process, and can be left out where it is not tested."""
    from types import SimpleNamespace

    from hf_effattn.hub import push
    from hf_effattn.hub.audit import audit_checkpoint

    if not verified:
        push.verify_folder = lambda folder, **_: SimpleNamespace(audit=audit_checkpoint(folder))
    return push.push_checkpoint(folder, repo_id, **options)


def push_while_it_moves(folder, repo_id):
    """`push`, with another commit between the upload and ours."""
    from huggingface_hub import CommitOperationAdd, HfApi

    upload = HfApi.preupload_lfs_files

    def upload_and_move(api, repo_id, additions, **options):
        upload(api, repo_id, additions, **options)
        HfApi.preupload_lfs_files = upload
        api.create_commit(repo_id, [CommitOperationAdd("note.txt", b"of somebody else")], commit_message="A note")

    HfApi.preupload_lfs_files = upload_and_move
    return push(folder, repo_id)


def push_while_it_changes(folder, repo_id, name, when):
    """`push`, with a file of the folder changed after the verification or after the upload."""
    from pathlib import Path
    from types import SimpleNamespace

    from huggingface_hub import HfApi

    from hf_effattn.hub import push
    from hf_effattn.hub.audit import audit_checkpoint

    def change():
        path = Path(folder, name)
        path.unlink() if when == "removed" else path.write_bytes(path.read_bytes() + b"\n")

    def verify(folder, **options):
        audit = audit_checkpoint(folder)
        if when != "uploaded":
            change()
        return SimpleNamespace(audit=audit)

    def upload_and_change(api, *arguments, **options):
        upload(api, *arguments, **options)
        if when == "uploaded":
            change()

    upload, HfApi.preupload_lfs_files = HfApi.preupload_lfs_files, upload_and_change
    push.verify_folder = verify
    try:
        return push.push_checkpoint(folder, repo_id)
    finally:
        HfApi.preupload_lfs_files = upload


def export(repo_id, folder, revision):
    """``hf-effattn export`` of a repository."""
    from pathlib import Path

    from hf_effattn.hub import commands

    commands.export(repo_id, Path(folder), revision)


def push_parts(folder, repo_id):
    """The way of transformers: the config, then the model, then the tokenizer, then the card."""
    import huggingface_hub
    import transformers

    import hf_effattn  # noqa: F401

    transformers.AutoConfig.from_pretrained(folder).push_to_hub(repo_id)
    transformers.AutoModelForSequenceClassification.from_pretrained(folder).push_to_hub(repo_id)
    transformers.AutoTokenizer.from_pretrained(folder).push_to_hub(repo_id)
    huggingface_hub.ModelCard.load(f"{folder}/README.md").push_to_hub(repo_id)


def train_and_push(folder, output_dir, repo_id):
    """The way of `transformers.Trainer`."""
    import transformers
    from datasets import Dataset

    import hf_effattn  # noqa: F401

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    trainer = transformers.Trainer(
        model=transformers.AutoModelForSequenceClassification.from_pretrained(folder),
        args=transformers.TrainingArguments(output_dir, max_steps=2, hub_model_id=repo_id, use_cpu=True),
        train_dataset=Dataset.from_list([{**tokenizer(text), "label": i % 2} for i, text in enumerate(TEXTS)]),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer.push_to_hub().oid


def load(repo_id, auto_class="AutoModelForSequenceClassification", revision="main"):
    """What a model makes of `TEXTS`, loaded from a repository without our package."""
    sys.modules["hf_effattn"] = None
    import torch
    import transformers

    options = {"revision": revision, "trust_remote_code": True}
    model = getattr(transformers, auto_class).from_pretrained(repo_id, **options).eval()
    if not type(model).__module__.startswith("transformers_modules."):
        raise RuntimeError(f"{type(model)} does not come from the repository")
    tokenizer = transformers.AutoTokenizer.from_pretrained(repo_id, **options)
    with torch.no_grad():
        return model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))[0].tolist()


def scores(repo_id):
    """The scores in a repository's card."""
    from huggingface_hub import ModelCard

    return {result.metric_name: result.metric_value for result in ModelCard.load(repo_id).data.eval_results}


def main(steps):
    for step, arguments in steps:
        try:
            yield globals()[step](**arguments)
        except Exception as error:
            yield {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    print("RESULTS", json.dumps(list(main(json.loads(sys.argv[1])))))
