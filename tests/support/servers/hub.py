"""The Hugging Face Hub, replaced by a repository in memory: the Hub is not available on loopback."""

import io


class Hub:
    """The part of `HfFileSystem` and `HfApi` that this project uses, with a repository in memory."""

    def __init__(self):
        self.files, self.commits, self._api = {}, [], self

    def resolve_path(self, url):
        parts = url.removeprefix("hf://datasets/").split("/", 2)
        path = parts[2] if len(parts) > 2 else ""
        repository = {"repo_id": "/".join(parts[:2]), "repo_type": "dataset", "revision": "main", "path_in_repo": path}
        return type("Resolved", (), repository)

    def info(self, url):
        path = self.resolve_path(url).path_in_repo
        if path not in self.files:
            raise FileNotFoundError(url)
        return {"type": "file", "size": len(self.files[path]), "blob_id": str(hash(self.files[path]))}

    def open(self, url, mode, **_):
        return io.BytesIO(self.files[self.resolve_path(url).path_in_repo])

    def _strip_protocol(self, url):
        return url.removeprefix("hf://")

    def find(self, url, detail):
        assert detail
        resolved = self.resolve_path(url)
        start = f"{resolved.path_in_repo}/".lstrip("/")
        found = {path: len(data) for path, data in self.files.items() if f"{path}/".startswith(start)}
        return {f"datasets/{resolved.repo_id}/{path}": {"size": size} for path, size in found.items()}

    def create_commit(self, repo_id, operations, *, repo_type, revision, commit_message):
        self.commits.append((repo_id, repo_type, revision, commit_message))
        for operation in operations:
            if type(operation).__name__ == "CommitOperationDelete":
                del self.files[operation.path_in_repo]
            else:
                with operation.as_file() as file:
                    self.files[operation.path_in_repo] = file.read()
