"""The page's server: what it serves and with which headers, what it refuses, and how onnxruntime-web gets there."""

import hashlib
import http.client
import json
import socket
import threading

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdlib.skeletons.skeleton import COCO
from kdlib.students.loading import OnnxStudent
from train.__main__ import main
from train.deploy.web import runtime
from train.deploy.web.facts import describe
from train.deploy.web.server import PAGE, PageServer, resources
from train.errors import TrainError

FACTS = {
    "format": "pose-student-1",
    "run": "distilled",
    "input_size": "64x48",
    "input": "uint8",
    "stride": "4",
    "heatmaps": "regressed: Gaussians of height 1, as HRNet puts them out",
    "sigma": "2.0",
    "temperature": "1.0",
    "joints": json.dumps(COCO.joints),
    "mean": "[0.5, 0.5, 0.5]",
    "std": "[0.25, 0.25, 0.25]",
}


def write_student(path, count=17, **facts):
    """Write a file that has the metadata of an exported student, and a network of one operator."""
    output = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["batch", count, 16, 12])
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", count, 16, 12])
    graph = helper.make_graph([helper.make_node("Cast", ["image"], ["heatmaps"], to=1)], "g", [image], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, FACTS | facts)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A release with one student, copies of onnxruntime-web's files, images, and a file that must not be served."""
    folder = tmp_path_factory.mktemp("web")
    digest = hashlib.sha256(write_student(folder / "student.onnx").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  student.onnx\n")
    for name in runtime.FILES:
        (folder / "dist" / name).parent.mkdir(exist_ok=True)
        (folder / "dist" / name).write_text(name)
    (folder / "dist/package.json").write_text("{}")
    (folder / "photos/inner").mkdir(parents=True)
    (folder / "photos/secret.txt").write_text("secret")
    for name in ("photos/b.png", "photos/inner/a b.png"):
        cv2.imwrite(str(folder / name), np.full((6, 9, 3), len(name), np.uint8))
    return folder


@pytest.fixture(scope="module")
def server(folder):
    from kdlib.inputs.folders import find_images

    table = resources(folder / "student.onnx", folder / "dist", find_images(folder / "photos"))
    with PageServer(table, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


def get(server, path, method="GET", **headers):
    """Request a path exactly as it is given; returns status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/main.mjs", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/runtime/ort.wasm.min.mjs", "text/javascript; charset=utf-8"),
        ("/runtime/ort-wasm-simd-threaded.wasm", "application/wasm"),
        ("/student.onnx?again", "application/octet-stream"),
        ("/student.json", "application/json"),
        ("/images/0", "image/png"),
    ],
)
def test_a_file_has_its_content_type_and_the_headers_of_multithreaded_wasm(server, path, kind):
    status, headers, body = get(server, path)
    assert (status, headers["Content-Type"]) == (200, kind)
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "http" not in headers["Content-Security-Policy"]
    assert int(headers["Content-Length"]) == len(body) > 0
    status, head, nothing = get(server, path, "HEAD")
    assert (status, head["Content-Length"], nothing) == (200, headers["Content-Length"], b"")


def test_every_file_of_the_page_and_each_image_is_served_unchanged(server, folder):
    for path in PAGE.iterdir():
        assert get(server, f"/{path.name}")[2] == path.read_bytes()
    listed = json.loads(get(server, "/images.json")[2])
    assert [image["name"] for image in listed] == ["b.png", "inner/a b.png"]
    for image in listed:
        assert get(server, f"/{image['url']}")[2] == (folder / "photos" / image["name"]).read_bytes()
    assert get(server, "/student.onnx")[2] == (folder / "student.onnx").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/%2e%2e/server.py",
        "/images/../../photos/secret.txt",
        "/images/secret.txt",
        "/images/2",
        "/images/",
        "/runtime/package.json",
        "/runtime/..%2fphotos%2fsecret.txt",
        "//etc/passwd",
        "/page/index.html",
        "/%00",
    ],
)
def test_no_other_file_is_served(server, path):
    status, headers, body = get(server, path)
    assert status == 404
    assert b"secret" not in body
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_an_address_that_cannot_be_read_is_a_bad_request_and_prints_nothing(server, capfd):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(b"GET http://[bad/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
    assert get(server, "/")[0] == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("host", "is_local"), [("127.0.0.1", True), ("127.0.0.2", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_the_names_are_checked_at_every_address_that_only_this_machine_reaches(server, host, is_local):
    with PageServer(server.table, host, 0) as other:
        threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
        address = "127.0.0.1" if host in ("0.0.0.0", "localhost") else host
        assert other.url == f"http://{address}:{other.server_port}/"  # one that a browser here can open
        connection = http.client.HTTPConnection(address, other.server_port, timeout=30)
        connection.request("HEAD", "/", headers={"Host": "evil.example"})
        assert connection.getresponse().status == (403 if is_local else 200)
        connection.close()
        other.shutdown()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "[::1"])
def test_a_server_of_this_machine_answers_only_to_its_own_names(server, host):
    assert get(server, "/images.json", Host=host)[0] == 403
    assert get(server, "/images.json", Host=f"localhost:{server.server_port}")[0] == 200


def test_an_image_that_was_deleted_is_not_found_and_the_server_goes_on(folder, tmp_path):
    from kdlib.inputs.folders import find_images

    name = "写真\n.png"  # a line of the status may not hold it
    cv2.imwrite(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))
    table = resources(folder / "student.onnx", folder / "dist", find_images(tmp_path))
    (tmp_path / name).unlink()
    with PageServer(table, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        assert get(server, "/images/0")[0] == 404
        assert get(server, "/")[0] == 200
        server.shutdown()


@pytest.mark.parametrize("place", [lambda folder: folder, lambda folder: folder / "student.onnx"])
def test_the_command_prints_its_address_and_ends_cleanly_at_ctrl_c(folder, place, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", interrupted)
    words = ["web", str(place(folder)), "--runtime", str(folder / "dist"), "--port", "0"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "student.onnx runs at http://127.0.0.1:" in printed.out
    assert printed.err == ""


def test_what_cannot_be_served_is_refused_in_one_line(folder, tmp_path, capsys):
    (tmp_path / "best.pt").write_text("")
    (tmp_path / "empty").mkdir()
    student, dist = str(folder / "student.onnx"), ["--runtime", str(folder / "dist")]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words, message in (
            ([student, *dist, "--port", str(port)], f"cannot use 127.0.0.1, port {port} ("),
            ([student, *dist, "--port", "70000"], "port 70000 ("),
            ([student, *dist, "--port", "-1"], "--port must not be negative, got -1"),
            ([student, "--runtime", str(tmp_path)], f"has no {runtime.FILES[0]}; give the folder dist"),
            ([student, *dist, "--images", str(tmp_path / "empty")], "contains no images"),
            ([str(tmp_path / "best.pt"), *dist], "the page runs an exported student"),
            ([str(tmp_path / "gone.onnx"), *dist], "no student at"),
            ([str(tmp_path / "empty"), *dist], "is a folder; a run's student is"),
        ):
            assert main(["web", *words]) == 1
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1


# --- what the page is told about the student --------------------------------------------------------------------------


def test_the_page_gets_what_the_file_states(folder, tmp_path):
    found = describe(OnnxStudent(folder / "student.onnx"))
    assert found["input_size"] == [48, 64]
    assert (found["input"], found["mean"], found["std"]) == ("uint8", [0.5] * 3, [0.25] * 3)
    assert found["joints"] == list(COCO.joints)
    assert [(a, b) for a, b, _ in found["limbs"]] == list(COCO.limbs)
    kernel = cv2.getGaussianKernel(3, 0)[:, 0]  # 6 sigma - 1 pixels for sigma = 16 / 32 is 2; at least 3
    np.testing.assert_array_equal(found["blur"], kernel)
    assert found["decoder"] == "dark"
    stated = write_student(tmp_path / "stated.onnx", decoder="argmax", precision="int8")
    assert [describe(OnnxStudent(stated))[key] for key in ("decoder", "precision")] == ["argmax", "int8"]


def test_a_limb_has_the_side_of_its_joints_as_in_the_drawings(folder):
    for a, b, side in describe(OnnxStudent(folder / "student.onnx"))["limbs"]:
        assert side == COCO.limb_side(a, b)


def test_joints_that_are_not_cocos_get_no_limbs_of_coco(tmp_path):
    names = [f"left_finger_{i}" for i in range(17)]

    def described(count=17, **facts):
        return describe(OnnxStudent(write_student(tmp_path / "s.onnx", count, **facts)))

    other = described(joints=json.dumps(names))
    assert (other["joints"], other["limbs"]) == (names, [])
    stated = described(joints=json.dumps(names), limbs="[[0, 1], [1, 16], [3, 17]]")
    assert stated["limbs"] == [[0, 1, "left"], [1, 16, "left"]]
    numbered = described(count=5, joints="5")
    assert (numbered["joints"], numbered["limbs"]) == ([f"joint_{i}" for i in range(1, 6)], [])


# --- onnxruntime-web --------------------------------------------------------------------------------------------------


def fake_npm(folder, script):
    """Put a program named npm into a folder."""
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    return str(folder)


def test_the_files_are_installed_once_with_the_pinned_version(tmp_path, monkeypatch):
    made = " && ".join(f"echo {name} > node_modules/onnxruntime-web/dist/{name}" for name in runtime.FILES)
    script = (
        f'echo "$@" >> {tmp_path}/calls && test -f package-lock.json && mkdir -p node_modules/onnxruntime-web/dist && '
    )
    script += made + " && cp package.json node_modules/onnxruntime-web/"
    path = fake_npm(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    found = runtime.find_runtime()
    assert found == runtime.find_runtime() == runtime.default_folder()
    assert found.name == "onnxruntime-web-" + runtime.pinned_version()
    assert sorted(p.name for p in found.iterdir()) == sorted([*runtime.FILES, "package.json"])
    assert [p.name for p in found.parent.iterdir()] == [found.name]
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("ci ")
    assert "--ignore-scripts" in call


def test_without_npm_or_without_a_network_nothing_is_left_and_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainError, match=r"npm, which installs it, is not on this machine; .*--runtime DIR"):
        runtime.find_runtime()
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", "echo 'npm error code ENOTFOUND' >&2; exit 1"))
    with pytest.raises(TrainError, match=r"could not install .* \(npm error code ENOTFOUND\); .*--runtime DIR"):
        runtime.find_runtime()
    assert list(runtime.default_folder().parent.iterdir()) == []


def test_the_lock_file_pins_the_version_with_a_checksum():
    lock = json.loads((PAGE.parent / "package-lock.json").read_text())["packages"]
    package = lock["node_modules/onnxruntime-web"]
    assert package["version"] == runtime.pinned_version() == lock[""]["devDependencies"]["onnxruntime-web"]
    assert all(entry["integrity"].startswith("sha512-") for name, entry in lock.items() if name)
