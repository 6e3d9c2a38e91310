"""Where a run's first weights come from: a file, a run, a URL, or Paddle's own for a network."""

from __future__ import annotations

import hashlib
import inspect
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from ..averaging import ArgumentError
from ..checkpoint import load_but_head
from ..config import Config
from ..data.archives import mirror_addresses, paddle_cache
from ..data.download import Downloader, MirrorsFailedError
from ..data.transfer import SCHEMES
from ..engine.evaluate import RAW
from ..engine.weights import ALL, find_weights
from ..errors import CheckpointError, NonFiniteError
from ..models import PRETRAINED, PaddleModel
from ..progress import ProgressLine
from .catalog import argument_error

KEY = "pretrain_weights"
_DIGEST = re.compile(r"(md5)=([0-9a-f]{32})|(sha256)=([0-9a-f]{64})")


@dataclass(frozen=True)
class WebFile:
    """A weight file that is fetched, and kept in Paddle's cache.

    Args:
        urls: tried in turn.
        path: where it is kept.
        digests: what the file must have, by md5 or sha256.
    """

    urls: Sequence[str]
    path: Path
    digests: Mapping[str, str]

    def fetch(self) -> str:
        """Put the file into its place unless it is there; return what is said of it.

        Raises:
            MirrorsFailedError: no server gave it.
            StorageError: it cannot be written.
        """
        if self.path.is_file() and self._is_intact():
            return f"{self.path}, in the cache"
        with ProgressLine(f"downloading {self.path.name}") as line:
            Downloader().download(
                self.urls,
                self.path,
                self.digests.get("md5"),
                None,
                line.show_bytes,
                self.digests.get("sha256"),
            )
        return f"{self.path}, downloaded"

    def _is_intact(self) -> bool:
        for name, wanted in self.digests.items():
            digest = hashlib.new(name, usedforsecurity=False)
            with open(self.path, "rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            if digest.hexdigest() != wanted:
                return False
        return True


def load_pretrained(config: Config, model: Any, may_download: bool = True) -> list[str]:
    """Put the weights that a config asks for into the model; return what there is to say of it.

    Args:
        config: with `pretrain_weights`, or a model with `pretrained: true`, or neither.
        model: a paddle.nn.Layer; untouched where the weights do not fit.
        may_download: without it, what would come from a server is left out.

    Raises:
        ConfigError: both are given, Paddle has none, or a URL is none.
        CheckpointError: nothing is there, or it is damaged or does not fit.
        NonFiniteError: the weights hold NaN or Inf.
    """
    key = _key_of(config)
    if key is None:
        return []
    web_file = _web_file(config, key)
    if web_file is not None and not may_download:
        return []
    try:
        found, state = _read(config, web_file)
        kept = load_but_head(model, state, found, _num_classes(config))
    except NonFiniteError as error:
        raise NonFiniteError(str(config.error(key, f"{key}: {error}"))) from None
    except (CheckpointError, MirrorsFailedError) as error:
        text = f"{key}: {error}"
        if isinstance(error, MirrorsFailedError) and web_file is not None:
            text += f"; fetch it by other means and put it at {web_file.path}"
        raise CheckpointError(str(config.error(key, text))) from None
    num_all = len(model.state_dict())
    lines = [f"{key}: {num_all - len(kept)} of {num_all} tensors from {found}"]
    if kept:
        as_drawn = "kept as they were drawn, since the number of classes differs"
        lines.append(f"{key}: {as_drawn}: {', '.join(kept)}")
    return lines


def note_unused(config: Config) -> list[str]:
    """Return what there is to say where a run that goes on has weights of its own."""
    key = _key_of(config)
    if key is None:
        return []
    return [f"{key}: not used, since the run goes on with the weights of its checkpoint"]


def _key_of(config: Config) -> Optional[str]:
    """Return the key that asks for weights, None where none does."""
    is_pretrained = isinstance(config.Model.cls, PaddleModel) and config.Model.arguments.get(
        PRETRAINED
    )
    if is_pretrained and config.pretrain_weights is not None:
        raise config.error(
            KEY, f"{KEY} and Model.{PRETRAINED} both name weights to start from; leave one out"
        )
    if is_pretrained:
        return f"Model.{PRETRAINED}"
    return KEY if config.pretrain_weights is not None else None


def _web_file(config: Config, key: str) -> Optional[WebFile]:
    """Return the file to fetch, None where the weights are on this machine."""
    if key != KEY:
        return _paddle_file(config)
    url = config.pretrain_weights or ""
    if "://" not in url:
        return None
    parts = _split(config, url)
    address, _, fragment = url.partition("#")
    digest = _DIGEST.fullmatch(fragment)
    if fragment and digest is None:
        raise config.error(
            KEY,
            f"{KEY}: behind # stands md5= with 32 or sha256= with 64 hex digits in small letters, "
            f"got {fragment!r}",
        )
    # Another URL may end in the same name.
    folder = hashlib.sha256(address.encode()).hexdigest()[:16]
    path = _cache() / folder / (Path(parts.path).name or "weights.pdparams")
    digests = {digest[1] or digest[3]: digest[2] or digest[4]} if digest else {}
    return WebFile([address], path, digests)


def _split(config: Config, url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        is_address = parts.scheme in SCHEMES and bool(parts.hostname)
    except ValueError:
        is_address = False
    if not is_address:
        raise config.error(KEY, f"{KEY}: a URL begins with http:// or https://, got {url!r}")
    return parts


def _paddle_file(config: Config) -> WebFile:
    """Return the file that Paddle would fetch; PPEMA_MIRRORS goes before its own server."""
    try:
        url, md5 = config.Model.cls.pretrained_source(**config.Model.arguments)  # type: ignore[attr-defined]
    except ArgumentError as error:
        raise argument_error(config, config.Model, error) from None
    base, _, name = url.rpartition("/")
    urls = [address + name for address in mirror_addresses([base + "/"])]
    return WebFile(urls, _cache() / name, {"md5": md5} if md5 else {})


def _cache() -> Path:
    """Return where Paddle, too, keeps weights."""
    return paddle_cache("").parent / "hapi/weights"


def _read(config: Config, web_file: Optional[WebFile]) -> tuple[str, Mapping[str, Any]]:
    """Return what the weights are, in words, and the weights by name."""
    if web_file is None:
        return _read_here(config.pretrain_weights or "")
    was_there = web_file.path.is_file()
    said = web_file.fetch()
    try:
        return said, _read_here(str(web_file.path))[1]
    except CheckpointError as error:
        if was_there:
            raise CheckpointError(f"{error}; delete the file to download it anew") from None
        # What is no weight file, such as a page that says so, must not be taken from the cache.
        web_file.path.unlink()
        raise CheckpointError(f"{web_file.urls[0]}: {error}") from None


def _read_here(path: str) -> tuple[str, Mapping[str, Any]]:
    weights = find_weights(path, Path(path), ALL)
    if weights.checkpoint is None:
        (name,) = weights.names
        return path, weights.read(name)
    name = weights.winner or RAW
    return f"{name} of {weights.checkpoint.path}", weights.read(name)


def _num_classes(config: Config) -> Optional[int]:
    given = config.Model.arguments.get("num_classes")
    if given is None:
        parameter = inspect.signature(config.Model.cls).parameters.get("num_classes")
        given = parameter.default if parameter is not None else None
    return given if isinstance(given, int) else None
