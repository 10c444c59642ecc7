"""Builds Choir without gRPC against the LibTorch of this Python, in build/gpu."""
import glob
import json
import os
import shutil
import subprocess
import sys
import time

import torch

from gpu_check import pack

ROOT = os.path.abspath("build/gpu")
BUILD = os.path.join(ROOT, "build")
DEPS = os.path.join(ROOT, "deps")
ARCH = "x86_64-linux-gnu"
STATE = os.path.join(ROOT, "state.json")
# What is compared and measured, and then the tests that mean something there.
TARGETS = ["choir-model", "gpu_step", "gpu_model_test"]
MORE_TARGETS = ["choir-sim", "model_device_ops_test", "model_ops_test", "model_attention_test",
                "model_adapter_ops_test", "model_trainer_test"]


def unpack(folder):
    """Unpacks the packages below DEPS, never into the system."""
    debs = sorted(glob.glob(os.path.join(folder, "debs", "*.deb")))
    if not debs:
        sys.exit(f"gpu-check: no packages in {folder}/debs; make them with scripts/gpu-check --pack {folder}")
    stamp = os.path.join(DEPS, "unpacked")
    names = "\n".join(os.path.basename(deb) for deb in debs)
    if os.path.exists(stamp):
        with open(stamp) as file:
            if file.read() == names:
                return
    shutil.rmtree(DEPS, ignore_errors=True)
    os.makedirs(DEPS)
    for deb in debs:
        subprocess.run(["dpkg-deb", "-x", deb, DEPS], check=True)
    include = os.path.join(DEPS, "usr/include")
    # Headers that Debian keeps by architecture, where others look for them.
    shutil.copytree(os.path.join(include, ARCH), include, dirs_exist_ok=True)
    libraries = os.path.join(DEPS, "usr/lib", ARCH)
    for path in glob.glob(libraries + "/*.so"):
        # Whatever has a static library is linked so: nothing to find at run time.
        if not os.path.exists(path) or os.path.exists(path[:-3] + ".a") and "absl" not in path:
            os.remove(path)
    protoc = os.path.join(DEPS, "protoc")
    with open(protoc, "w") as file:
        file.write(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {DEPS}/usr/bin/protoc "$@"\n')
    os.chmod(protoc, 0o755)
    with open(stamp, "w") as file:
        file.write(names)


def dependency_flags():
    """CMake's settings for what unpack() has put there."""
    usr = os.path.join(DEPS, "usr")
    libraries = os.path.join(usr, "lib", ARCH)

    def config_of(package):
        pattern = f"/cmake/{package}/{package}*onfig.cmake"
        found = glob.glob(libraries + pattern) + glob.glob(usr + "/share" + pattern)
        if not found:
            sys.exit(f"gpu-check: {package} is not among the packages; make them anew with --pack")
        return f"-D{package}_DIR={os.path.dirname(found[0])}"

    return [
        f"-DCMAKE_PREFIX_PATH={usr}", f"-DCMAKE_CXX_FLAGS=-isystem {usr}/include", "-DCHOIR_STATIC_PROTOBUF=ON",
        f"-DProtobuf_INCLUDE_DIR={usr}/include", f"-DProtobuf_LIBRARY={libraries}/libprotobuf.a",
        f"-DProtobuf_PROTOC_EXECUTABLE={DEPS}/protoc",
        f"-DOPENSSL_INCLUDE_DIR={usr}/include", "-DOPENSSL_USE_STATIC_LIBS=ON",
        f"-DOPENSSL_CRYPTO_LIBRARY={libraries}/libcrypto.a", f"-DOPENSSL_SSL_LIBRARY={libraries}/libssl.a",
        f"-DSQLite3_INCLUDE_DIR={usr}/include", f"-DSQLite3_LIBRARY={libraries}/libsqlite3.a",
        *[config_of(name) for name in ("absl", "GTest", "benchmark", "rapidcheck", "nlohmann_json", "CLI11")],
    ]


def torch_root():
    """The folder of this Python's LibTorch with its headers; None if the system's is meant."""
    root = os.path.dirname(torch.__file__)
    return root if os.path.isdir(os.path.join(root, "include", "ATen")) else None


def program_environment():
    """The environment of Choir's programs: CUDA's own libraries, which Python packages hold, are found last."""
    env = dict(os.environ)
    root = torch_root()
    if root:
        beside = os.path.join(os.path.dirname(root), "nvidia")
        folders = [env.get("LD_LIBRARY_PATH", ""), os.path.join(root, "lib"), *sorted(glob.glob(beside + "/*/lib"))]
        env["LD_LIBRARY_PATH"] = ":".join(folder for folder in folders if folder)
    env["CHOIR_SOURCE_DIR"] = os.getcwd()
    env["CHOIR_BIN_DIR"] = os.path.join(BUILD, "bin")
    golden = pack.golden_folder() or state().get("golden")
    if golden:
        env["CHOIR_GOLDEN_DIR"] = os.path.abspath(golden)
    return env


def state():
    """What the build left for the run."""
    if not os.path.exists(STATE):
        return {}
    with open(STATE) as file:
        return json.load(file)


def run(options):
    """Configures and builds; ends the program where that fails."""
    if hasattr(torch._C, "_GLIBCXX_USE_CXX11_ABI") and not torch._C._GLIBCXX_USE_CXX11_ABI:
        sys.exit("gpu-check: this PyTorch is built with the old C++ ABI; Choir needs one with the new (2.6 or later)")
    os.makedirs(ROOT, exist_ok=True)
    begin = time.time()
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O2", "-DCHOIR_WITH_GRPC=OFF"]
    golden = None
    if options.deps:
        unpack(options.deps)
        flags += dependency_flags()
        golden = os.path.join(options.deps, "golden")
    if torch_root():
        flags.append(f"-DTORCH_ROOT={torch_root()}")
    commands = [
        ["cmake", "-G", "Ninja", "-S", ".", "-B", BUILD, *flags],
        ["cmake", "--build", BUILD, "-j", str(options.jobs), "--target",
         *TARGETS, *([] if options.quick else MORE_TARGETS)],
    ]
    for command in commands:
        log = os.path.join(ROOT, "build.log")
        with open(log, "w") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            with open(log) as file:
                lines = file.read().splitlines()
            errors = [line for line in lines if "error" in line.lower() or "undefined" in line]
            print("\n".join(errors[:40] + ["..."] + lines[-40:]))
            sys.exit(f"gpu-check: the build failed; {log} has all of it")
    with open(STATE, "w") as file:
        json.dump({"golden": golden and os.path.abspath(golden), "torch": torch.__version__}, file)
    print(f"gpu-check: built against PyTorch {torch.__version__} in {time.time() - begin:.0f} s", flush=True)


def check_built():
    """Ends the program if there is nothing to run."""
    if not os.path.exists(program("choir-model")):
        sys.exit("gpu-check: nothing is built; run scripts/gpu-check --build-only first")
    built = state().get("torch")
    if built != torch.__version__:
        sys.exit(f"gpu-check: the build is for PyTorch {built}, but this is {torch.__version__}; build again")


def program(name):
    """The path of a program that was built."""
    return os.path.join(BUILD, "bin" if name.startswith("choir-") else "tests", name)
