"""What every store promises, shown on a folder and on a bucket of a real S3 server."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tasks.core.errors import NetworkError, RegistryError, StorageError
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import promote, register, rollback
from tasks.registry.stores import s3
from tasks.registry.stores.open_store import open_store
from tasks.registry.stores.store import MissingKey, Store, in_parallel
from tasks.registry.versions.registry import Registry, names_in
from tests.registry.conftest import BUCKET, ROOT
from tests.registry.samples import sample, scores_of
from tests.s3_server import Server


def test_the_first_writer_of_a_key_wins_and_the_others_are_told(store: Store):
    assert store.put("a/b.json", b"first") is True
    assert store.put("a/b.json", b"second") is False
    assert store.get("a/b.json") == b"first"


def test_of_many_writers_at_once_one_wins(store: Store):
    barrier, won = threading.Barrier(8), []

    def write(number: int) -> None:
        barrier.wait()
        won.append(store.put("a/contended.json", f"writer {number}".encode()))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(won) == [False] * 7 + [True]


def test_names_are_listed_in_order_behind_a_given_one_and_hidden_ones_are_not(store: Store):
    for key in ("demo/log/00000003.json", "demo/log/00000001.json", "demo/log/00000002.json", "demo/x.json"):
        store.put(key, b"{}")
    assert store.children("demo/log") == ["00000001.json", "00000002.json", "00000003.json"]
    assert store.children("demo/log", "00000001.json") == ["00000002.json", "00000003.json"]
    assert store.children("demo") == ["log", "x.json"]
    assert store.children("") == names_in(store) == ["demo"]
    assert store.children("nothing/there") == []
    ages = store.ages("demo")
    assert sorted(ages) == [f"demo/log/0000000{n}.json" for n in (1, 2, 3)] + ["demo/x.json"]
    assert all(-2 < age < 60 for age in ages.values())


def test_what_is_missing_is_told_and_what_is_removed_is_gone(store: Store, tmp_path: Path):
    for ask in (store.get, lambda key: list(store.stream(key)), lambda key: store.fetch(key, tmp_path / "x")):
        with pytest.raises(MissingKey, match=r"demo/no\.json is missing"):
            ask("demo/no.json")
    assert not store.exists("demo/no.json")
    store.put("demo/a/yes.json", b"1")
    assert store.exists("demo/a/yes.json")
    store.remove("demo/a/yes.json")
    store.remove("demo/a/yes.json")
    assert not store.exists("demo/a/yes.json")
    assert store.children("") == []


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a/.hidden", "a\\b", "a/\n"])
def test_a_key_that_leads_elsewhere_is_refused(store: Store, key: str):
    for reach in (store.get, store.exists, store.remove, lambda name: store.put(name, b"")):
        with pytest.raises(RegistryError, match="is not a valid key of a registry"):
            reach(key)


def test_a_large_file_goes_over_whole_and_tells_how_far_it_is(store: Store, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)  # the smallest part that S3 takes
    source, target, moved = tmp_path / "weights", tmp_path / "copy", []
    source.write_bytes(bytes(range(256)) * (12 << 12))  # 12 MiB: two whole parts and a short one
    assert store.put("demo/weights.safetensors", source, moved.append) is True
    assert store.put("demo/weights.safetensors", source) is False
    assert sum(moved) == source.stat().st_size
    moved.clear()
    store.fetch("demo/weights.safetensors", target, moved.append)
    assert target.read_bytes() == source.read_bytes()
    assert sum(moved) == source.stat().st_size
    assert b"".join(store.stream("demo/weights.safetensors")) == source.read_bytes()
    assert store.sweep(0) == 0, "no upload is left open"


def test_a_release_is_the_same_story_in_either(store: Store, tmp_path: Path):
    registry = Registry(store, "demo")
    first = register(registry, *sample(0, scores_of(80, losses=20)), "champion", GateConfig())
    second = register(registry, *sample(1, scores_of(70, losses=30)), "champion", GateConfig())
    promote(registry, second.digest, "champion", override="kinder")
    assert registry.find("champion") == second.digest
    assert rollback(registry, "champion") == (second.digest, first.digest)
    again = Registry(store, "demo")
    assert again.find("champion") == first.digest
    assert again.digests() == [first.digest, second.digest]
    events = [entry.event.action for entry in again.log.entries()]
    assert events == ["register", "promote", "register", "promote", "rollback"]
    for digest in again.digests():
        again.check(digest)
    again.pull(first.digest, tmp_path / "pulled")
    assert sorted(p.relative_to(tmp_path / "pulled").as_posix() for p in (tmp_path / "pulled").rglob("*.*")) == sorted(
        [*again.read(first.digest).files, "manifest.json"]
    )


def test_lanes_keep_the_order_and_pass_errors_on(store: Store):
    assert in_parallel(store, lambda n: n * n, range(20)) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        in_parallel(store, lambda n: 1 // n, [1, 0, 2])


def test_uploads_that_died_are_swept_when_they_are_old(server: Server):
    store = open_store(ROOT)
    server.client.create_multipart_upload(Bucket=BUCKET, Key="team/demo/versions/x/weights.safetensors")
    server.client.create_multipart_upload(Bucket=BUCKET, Key="elsewhere/big")
    assert store.sweep(1e9) == 0  # moto says of every upload that it began in 2010
    assert store.sweep(86_400) == 1
    assert len(server.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]) == 1


def test_encryption_is_asked_for_by_name(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    store = open_store(ROOT, "aws:kms", "alias/releases")
    (tmp_path / "large").write_bytes(bytes(6 << 20))
    store.put("demo/small.json", b"{}")
    store.put("demo/large.safetensors", tmp_path / "large")
    for key in ("team/demo/small.json", "team/demo/large.safetensors"):
        told = server.client.head_object(Bucket=BUCKET, Key=key)
        assert (told["ServerSideEncryption"], told["SSEKMSKeyId"]) == ("aws:kms", "alias/releases")


def without_the_condition(store: Store, only_in: str = "") -> None:
    """Drop `If-None-Match` from the requests of ``store`` whose key holds ``only_in``: the server ignores it then."""
    assert isinstance(store, s3.S3Store)

    def remove(request, **_) -> None:
        if only_in in request.url:
            del request.headers["If-None-Match"]

    store._bucket.client.meta.events.register("before-sign.s3.PutObject", remove)


def test_a_server_that_ignores_the_condition_is_refused_each_time(server: Server):
    assert open_store(ROOT).put("demo/a.json", b"{}"), "the server passed the test once, and was exchanged then"
    for store in (open_store(ROOT), open_store(ROOT)):
        without_the_condition(store)
        with pytest.raises(StorageError, match=r"ignores `If-None-Match: \*`, so two writers") as caught:
            store.put("demo/b.json", b"{}")
        assert "keep the registry in a folder" in str(caught.value)
    assert server.names(BUCKET) == ["team/.probe", "team/demo/a.json"]


def test_a_server_where_concurrent_writers_all_succeed_is_refused(server: Server):
    store = open_store(ROOT)
    without_the_condition(store, only_in="/.trials/")  # alone, each request is answered rightly
    for _ in range(2):
        with pytest.raises(StorageError, match="let 8 of 8 concurrent writers of one key succeed, so two writers"):
            store.put("demo/a.json", b"{}")
    assert server.names(BUCKET) == [], "nothing is recorded, so the next writer tests it again"


def test_a_bucket_where_an_earlier_version_had_to_wait_is_refused(server: Server):
    server.client.put_object(Bucket=BUCKET, Key="team/.probe", Body=b'{"settle_s": 5.0}')
    with pytest.raises(StorageError, match="lets concurrent writers of one key all succeed"):
        open_store(ROOT).put("demo/a.json", b"{}")
    assert open_store(ROOT).children("") == [], "it can still be read"


def test_a_server_is_tested_once_and_the_result_is_kept(server: Server):
    sent: list[str] = []
    for number in range(2):
        store = open_store(ROOT)
        assert isinstance(store, s3.S3Store)
        store._bucket.client.meta.events.register(
            "before-send.s3.PutObject", lambda request, **_: sent.append(request.url)
        )
        assert store.put(f"demo/{number}.json", b"{}")
    assert len([url for url in sent if "/.trials/" in url]) == 32
    assert server.names(BUCKET) == ["team/.probe", "team/demo/0.json", "team/demo/1.json"], "no trial is left"


FOREIGN = ["team/demo/versions/x y", "team/demo/versions/ü", "team/demo/versions/-rf"]


@pytest.mark.parametrize("key", FOREIGN)
def test_an_object_that_no_key_could_have_made_is_refused(server: Server, key: str):
    server.client.put_object(Bucket=BUCKET, Key=key, Body=b"")
    for ask in (open_store(ROOT).children, open_store(ROOT).ages):
        with pytest.raises(RegistryError, match="does not belong in a registry"):
            ask("demo/versions")


SECRETS = ("tester", "secret", "hunter2", "sesame")


@pytest.mark.parametrize(
    "case", ["no bucket", "no server", "no credentials", "no profile", "no address", "another cloud"]
)
def test_a_fault_is_one_line_without_a_credential(server: Server, monkeypatch: pytest.MonkeyPatch, case: str, command):
    root, said = ROOT, "check AWS_ENDPOINT_URL"
    if case == "no bucket":
        root, said = "s3://elsewhere/team", "make the bucket, or correct the address"
    elif case == "no server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://hunter2:sesame@127.0.0.1:9")
    elif case == "no credentials":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        said = "set AWS_ACCESS_KEY_ID, or AWS_PROFILE"
    elif case == "no profile":
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        said = "AWS_PROFILE"
    elif case == "no address":
        root, said = "s3://Bad_Bucket!/x", "write s3://bucket/prefix"
    else:
        root, said = "gs://bucket/x", "write s3://bucket/prefix"
    status, out, error = command("list", root=root)
    assert (status, out) == (1, "")
    assert error.startswith("[registry] error: ")
    assert error.count("\n") == 1
    assert said in error
    assert not [secret for secret in SECRETS if secret in error]


def test_nothing_stored_holds_a_credential(server: Server):
    registry = Registry(open_store(ROOT), "demo")
    register(registry, *sample(), "champion", GateConfig())
    for name in server.names(BUCKET):
        data = server.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        assert b"tester" not in data
        assert b"secret" not in data


TAMPERED = {
    "another byte": ("adapter_model.safetensors", lambda data: data[:-1] + b"!", "does not have the SHA-256"),
    "another size": ("README.md", lambda data: data + b"more", "bytes, its manifest says"),
    "a file of another": ("README.md", lambda _: b"<html></html>\n", "bytes, its manifest says"),
    "another manifest": (
        "manifest.json",
        lambda data: data.replace(b'"size": 9', b'"size": 8'),
        "is not the one that was",
    ),
    "a planted file": ("evil.pkl", lambda _: b"\x80\x04", "evil.pkl, which is not among its files"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_an_object_that_was_tampered_with_is_refused(server: Server, case: str, tmp_path: Path, command):
    name, damage, said = TAMPERED[case]
    digest = register(Registry(open_store(ROOT), "demo"), *sample(), "champion", GateConfig()).digest
    key = f"team/demo/versions/{digest}/{name}"
    before = server.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() if "planted" not in case else b""
    assert damage(before) != before
    server.client.put_object(Bucket=BUCKET, Key=key, Body=damage(before))
    status, out, _ = command("verify", root=ROOT)
    assert status == 1
    assert said in out
    if "planted" not in case:
        with pytest.raises(RegistryError, match=said):
            Registry(open_store(ROOT), "demo").pull(digest, tmp_path / "pulled")
        assert not (tmp_path / "pulled").exists()


def test_a_network_error_says_to_run_again(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match="run again"):
        open_store(ROOT).put("demo/a.json", b"")


def test_a_servers_client_takes_the_keys_of_now(server: Server, monkeypatch: pytest.MonkeyPatch):
    """boto3's default session keeps the first keys of a process: a second server would refuse them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    client = Server(server.url).client
    assert client._request_signer._credentials.access_key == "somebody"
