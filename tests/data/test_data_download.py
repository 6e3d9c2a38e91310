"""A download ends in time, whole or not at all, whatever the mirror does."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import threading
import time
import urllib.request

import pytest
from archives import md5
from mirrors import dribble, endless, redirect, send, silent

from ppema.data.download import Downloader, MirrorsFailedError
from ppema.data.transfer import THREAD_NAME, MirrorError, Transfer, _HttpRedirects
from ppema.errors import DataError, StorageError

BODY = bytes(range(256)) * 1000


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "file.gz"


@pytest.fixture
def downloader():
    return Downloader(connect_timeout_s=0.4, stall_timeout_s=0.3, total_timeout_s=0.8)


def download(downloader, target, *urls, **options):
    return downloader.download(list(urls), target, md5(BODY), len(BODY), **options)


def answer_of(downloader, target, url):
    """Return what the only mirror answered, after seeing that nothing was left behind."""
    with pytest.raises(MirrorsFailedError) as caught:
        download(downloader, target, url)
    assert leftovers(target) == []
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{url}: ")
    return text[len(url) + 2 :]


def leftovers(target):
    return os.listdir(target.parent) if target.parent.exists() else []


def test_file_arrives_whole_and_alone(mirror, target, downloader):
    mirror.files["f"] = BODY
    download(downloader, target, mirror.url + "f")
    assert target.read_bytes() == BODY
    assert leftovers(target) == ["file.gz"]


def test_file_can_be_read_by_others_as_the_umask_says(mirror, target, downloader):
    mirror.files["f"] = BODY
    old = os.umask(0o022)
    try:
        download(downloader, target, mirror.url + "f")
    finally:
        os.umask(old)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_next_mirror_is_asked_when_one_fails(start_mirror, target, downloader):
    lacking, broken, good = start_mirror(), start_mirror(f=BODY[:-1] + b"?"), start_mirror(f=BODY)
    download(downloader, target, *[server.url + "f" for server in (lacking, broken, good)])
    assert target.read_bytes() == BODY
    assert [len(server.requests) for server in (lacking, broken, good)] == [1, 1, 1]


def test_every_answer_is_told(start_mirror, target, downloader):
    lacking, short = start_mirror(), start_mirror(f=BODY[:5])
    with pytest.raises(DataError) as caught:
        download(downloader, target, lacking.url + "f", short.url + "f")
    assert str(caught.value) == (
        f"{lacking.url}f: HTTP 404 Not Found, {short.url}f: announces 5 bytes, expected {len(BODY)}"
    )


def test_no_mirrors(target, downloader):
    with pytest.raises(MirrorsFailedError, match=r"^no mirrors are set$"):
        download(downloader, target)


def test_wrong_bytes_of_the_right_length(mirror, target, downloader):
    mirror.files["f"] = BODY[:-1] + b"?"
    expected = f"sent a file with md5 {md5(mirror.files['f'])}, expected {md5(BODY)}"
    assert answer_of(downloader, target, mirror.url + "f") == expected


def test_body_that_ends_too_early(mirror, target, downloader):
    mirror.files["f"] = lambda handler: send(handler, BODY[:1000], len(BODY))
    answer = answer_of(downloader, target, mirror.url + "f")
    assert answer == f"ended after 1000 of {len(BODY)} bytes"


def test_body_that_breaks_off(mirror, target, downloader):
    def reset(handler):
        send(handler, BODY[:1000], len(BODY))
        # With a linger time of 0 a close is a reset.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        handler.connection.close()

    mirror.files["f"] = reset
    answer = answer_of(downloader, target, mirror.url + "f")
    assert answer in (
        f"broke off after 1000 of {len(BODY)} bytes",
        f"broke off after 0 of {len(BODY)} bytes",
        # The reset may even overtake the headers.
        "unreachable: Connection reset by peer",
    )


def test_endless_body_is_cut_off(mirror, target, downloader):
    mirror.files["f"] = endless
    answer = answer_of(downloader, target, mirror.url + "f")
    assert answer == f"sends more than the {len(BODY)} bytes expected"


def test_announced_length_that_is_a_lie(mirror, target, downloader):
    mirror.files["f"] = lambda handler: send(handler, BODY, len(BODY) + 1)
    answer = answer_of(downloader, target, mirror.url + "f")
    assert answer == f"announces {len(BODY) + 1} bytes, expected {len(BODY)}"


def test_server_that_accepts_and_says_nothing(mirror, target, downloader):
    mirror.files["f"] = silent()
    slow_socket = Downloader(connect_timeout_s=0.2, stall_timeout_s=60)
    assert answer_of(slow_socket, target, mirror.url + "f") == "no answer within 0.2 s"


def test_server_that_falls_silent(mirror, target, downloader):
    mirror.files["f"] = silent(BODY[:1000], len(BODY))
    answer = answer_of(downloader, target, mirror.url + "f")
    assert answer == f"silent for 0.3 s after 1000 of {len(BODY)} bytes"


def test_server_that_sends_a_byte_now_and_then(mirror, target, downloader):
    mirror.files["f"] = dribble(1000, 0.05, len(BODY))
    answer = answer_of(downloader, target, mirror.url + "f")
    assert answer.startswith("too slow, stopped after ")


def test_large_file_from_a_slow_mirror_may_take_longer_than_a_small_one(mirror, target, downloader):
    def in_parts(handler):
        send(handler, b"", len(BODY))
        for start in range(0, len(BODY), 50_000):
            time.sleep(0.2)
            handler.wfile.write(BODY[start : start + 50_000])

    mirror.files["f"] = in_parts
    download(downloader, target, mirror.url + "f")
    assert target.read_bytes() == BODY


def test_silence_longer_than_the_whole_may_take_is_cut_short(mirror, target):
    mirror.files["f"] = silent(BODY[:1000], len(BODY))
    answer = answer_of(
        Downloader(stall_timeout_s=60, total_timeout_s=0.3), target, mirror.url + "f"
    )
    assert answer == f"too slow, stopped after 1000 of {len(BODY)} bytes"


def test_silence_is_noticed_where_the_socket_s_timeout_would_not(mirror):
    mirror.files["f"] = silent(BODY[:1000], len(BODY))
    with contextlib.closing(Transfer(mirror.url + "f", len(BODY), 600)) as transfer:
        transfer.wait_for_answer(60)
        end = time.monotonic() + 600
        received = 0
        while received < 1000:
            received += len(transfer.next_chunk(60, end))
        with pytest.raises(MirrorError, match=r"^silent for 0\.2 s after 1000 of"):
            transfer.next_chunk(0.2, end)


def own_thread():
    """Return the newest download's thread; those of other tests may not have ended yet."""
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME][-1]


def test_thread_ends_when_nobody_waits_for_it(mirror):
    mirror.files["f"] = dribble(100_000, 0.01, len(BODY))
    with contextlib.closing(Transfer(mirror.url + "f", len(BODY), 600)) as transfer:
        transfer.wait_for_answer(60)
        thread = own_thread()
    thread.join(10)
    assert not thread.is_alive()


def test_thread_reads_one_byte_more_than_expected_at_most(mirror):
    mirror.files["f"] = endless
    with contextlib.closing(Transfer(mirror.url + "f", len(BODY), 600)) as transfer:
        own_thread().join(10)
        transfer.wait_for_answer(60)
        end = time.monotonic() + 60
        received = 0
        while received <= len(BODY):
            received += len(transfer.next_chunk(1, end))
        assert received == len(BODY) + 1
        with pytest.raises(MirrorError, match=r"^silent for 0\.1 s"):
            transfer.next_chunk(0.1, end)


def test_server_that_speaks_something_else(mirror, target, downloader):
    mirror.files["f"] = lambda handler: handler.wfile.write(b"SSH-2.0-Open\x1b[31m\r\n")
    answer = answer_of(downloader, target, mirror.url + "f")
    assert answer == "does not speak HTTP (BadStatusLine)"


def test_words_of_a_server_cannot_steer_the_terminal(mirror, target, downloader):
    mirror.files["f"] = lambda handler: handler.send_error(503, "\x1b[31mgone \x07" + "x" * 500)
    answer = answer_of(downloader, target, mirror.url + "f")
    assert answer.startswith("HTTP 503 [31mgone xxx")
    assert len(answer) == 200


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_port_that_nobody_listens_on(target, downloader):
    answer = answer_of(downloader, target, f"http://127.0.0.1:{unused_port()}/f")
    assert answer == "unreachable: Connection refused"


def test_name_look_up_that_hangs_is_bounded(monkeypatch, target):
    is_over = threading.Event()

    def hang(*_, **__):
        is_over.wait(30)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    impatient = Downloader(connect_timeout_s=0.1)
    answer = answer_of(impatient, target, "http://mirror.invalid/f")
    is_over.set()
    assert answer == "no answer within 0.1 s"


def test_unknown_name(monkeypatch, target, downloader):
    def refuse(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    answer = answer_of(downloader, target, "http://mirror.invalid/f")
    assert answer == "its name is not known here"


def test_host_that_does_not_answer_is_asked_once(mirror, target, downloader):
    mirror.files["f"] = mirror.files["g"] = silent()
    first = answer_of(downloader, target, mirror.url + "f")
    assert answer_of(downloader, target, mirror.url + "g") == first
    assert mirror.requests == ["/f"]


def test_host_that_falls_silent_is_asked_once(mirror, target, downloader):
    mirror.files["f"], mirror.files["g"] = silent(BODY[:1], len(BODY)), BODY
    answer_of(downloader, target, mirror.url + "f")
    answer_of(downloader, target, mirror.url + "g")
    assert mirror.requests == ["/f"]


def test_host_that_lacks_one_file_is_asked_for_the_next(mirror, target, downloader):
    mirror.files["g"] = BODY
    answer_of(downloader, target, mirror.url + "f")
    download(downloader, target, mirror.url + "g")
    assert target.read_bytes() == BODY


def test_another_downloader_asks_again(mirror, target, downloader):
    mirror.files["f"] = silent()
    answer_of(downloader, target, mirror.url + "f")
    mirror.files["f"] = BODY
    download(Downloader(), target, mirror.url + "f")
    assert target.read_bytes() == BODY


def test_redirect_to_another_host_is_followed(start_mirror, target, downloader):
    other = start_mirror(real=BODY)
    first = start_mirror(f=redirect(other.url + "real"))
    download(downloader, target, first.url + "f")
    assert target.read_bytes() == BODY
    assert other.requests == ["/real"]


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/f", "file:///etc/passwd", "data:,x"])
def test_redirect_to_another_scheme_is_refused(mirror, target, downloader, location):
    mirror.files["f"] = redirect(location)
    answer = answer_of(downloader, target, mirror.url + "f")
    assert location.partition(":")[0] in answer
    assert "not followed" in answer or "not allowed" in answer


def test_redirect_from_https_to_http_is_refused():
    request = urllib.request.Request("https://mirror.invalid/f")
    handler = _HttpRedirects()
    with pytest.raises(MirrorError, match=r"redirects to 'http://mirror\.invalid/f'"):
        handler.redirect_request(request, io.BytesIO(), 302, "", {}, "http://mirror.invalid/f")
    followed = handler.redirect_request(
        request, io.BytesIO(), 302, "", {}, "https://other.invalid/f"
    )
    assert followed.full_url == "https://other.invalid/f"


def test_redirects_without_end_are_followed_five_times(mirror, target, downloader):
    mirror.files.update({f"{step}": redirect(f"/{step + 1}") for step in range(100)})
    assert answer_of(downloader, target, mirror.url + "0").startswith("HTTP 302")
    assert mirror.requests == [f"/{step}" for step in range(6)]


def test_proxy_of_the_environment_is_asked(mirror, target, downloader, monkeypatch):
    monkeypatch.setenv("http_proxy", mirror.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    # A proxy is given the whole address where a server is given the path.
    mirror.files["http://mirror.invalid/f"[1:]] = BODY
    download(downloader, target, "http://mirror.invalid/f")
    assert target.read_bytes() == BODY


def test_endless_body_of_a_redirect_is_not_read(start_mirror, target, downloader):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", "/real")
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(1 << 16))

    mirror = start_mirror(f=answer, real=BODY)
    download(downloader, target, mirror.url + "f")
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/f", "/etc/passwd"])
def test_only_web_addresses(target, downloader, url):
    with pytest.raises(ValueError, match="only http and https are downloaded from"):
        download(downloader, target, url)


@pytest.mark.parametrize("fault", [b"wrong", BODY[:-1] + b"?", silent(BODY[:9], len(BODY))])
def test_file_that_was_there_outlives_a_failure(mirror, target, downloader, fault):
    target.parent.mkdir()
    target.write_bytes(b"the old one")
    mirror.files["f"] = fault
    with pytest.raises(MirrorsFailedError):
        download(downloader, target, mirror.url + "f")
    assert target.read_bytes() == b"the old one"
    assert leftovers(target) == ["file.gz"]


def test_file_that_was_there_is_replaced(mirror, target, downloader):
    target.parent.mkdir()
    target.write_bytes(b"the old one")
    mirror.files["f"] = BODY
    download(downloader, target, mirror.url + "f")
    assert target.read_bytes() == BODY


def test_interrupt_leaves_nothing_behind(mirror, target, downloader):
    mirror.files["f"] = BODY
    seen = []

    def interrupt(done, total):
        seen.extend(leftovers(target))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(downloader, target, mirror.url + "f", progress=interrupt)
    assert len(seen) == 1
    assert seen[0].endswith(".part")
    assert leftovers(target) == []


def test_file_is_on_the_disk_before_it_gets_its_name(mirror, target, downloader, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), real_replace(a, b)))
    mirror.files["f"] = BODY
    download(downloader, target, mirror.url + "f")
    assert calls == ["fsync", "replace"]


def test_folder_that_cannot_be_made(mirror, tmp_path, downloader):
    (tmp_path / "cache").write_text("a file")
    mirror.files["f"] = BODY
    target = tmp_path / "cache" / "file.gz"
    with pytest.raises(StorageError) as caught:
        download(downloader, target, mirror.url + "f")
    assert str(caught.value) == f"cannot write {target}: File exists"


def test_full_disk_leaves_nothing_behind(mirror, target, downloader, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    mirror.files["f"] = BODY
    with pytest.raises(StorageError) as caught:
        download(downloader, target, mirror.url + "f")
    assert str(caught.value) == f"cannot write {target}: no space left"
    assert leftovers(target) == []


def test_progress_counts_up_to_the_whole(mirror, target, downloader):
    mirror.files["f"] = BODY
    seen = []
    download(downloader, target, mirror.url + "f", progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(set(seen))


def without_length(body):
    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def fetch(downloader, target, url, **expected):
    progress = []
    downloader.download(
        *([url], target, None, None), lambda done, of: progress.append((done, of)), **expected
    )
    return progress


def test_a_file_of_unknown_size_arrives_whole_with_and_without_an_announcement(
    mirror, target, downloader
):
    mirror.files.update(f=BODY, g=without_length(BODY))
    for name, size in (("f", len(BODY)), ("g", 0)):
        progress = fetch(downloader, target, mirror.url + name)
        assert progress[-1] == (len(BODY), size)
        assert target.read_bytes() == BODY
        assert leftovers(target) == ["file.gz"]
        target.unlink()


@pytest.mark.parametrize(
    ("name", "expected", "answer"),
    [
        ("f", {"sha256": "0" * 64}, "sent a file with sha256 [0-9a-f]{64}, expected 0{64}"),
        ("g", {"sha256": "0" * 64}, "sent a file with sha256 [0-9a-f]{64}, expected 0{64}"),
        ("short", {}, f"ended after 10 of {len(BODY)} bytes"),
        ("silent", {}, f"silent for 0.3 s after 10 of {len(BODY)} bytes"),
    ],
)
def test_a_file_of_unknown_size_that_is_not_whole_or_not_it_leaves_nothing(
    mirror, target, downloader, name, expected, answer
):
    mirror.files.update(f=BODY, g=without_length(BODY), silent=silent(BODY[:10], len(BODY)))
    mirror.files["short"] = lambda handler: send(handler, BODY[:10], len(BODY))
    with pytest.raises(MirrorsFailedError, match=answer):
        fetch(downloader, target, mirror.url + name, **expected)
    assert leftovers(target) == []
