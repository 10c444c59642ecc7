"""Collects what a GPU machine without network lacks: Debian packages of this machine's release, and golden data."""
import os
import re
import shutil
import subprocess
import sys

# What is compiled against; LibTorch, gRPC and the compiler are not among it.
DEVELOPMENT = [
    "libprotobuf-dev", "protobuf-compiler", "libabsl-dev", "libssl-dev", "libsqlite3-dev", "libtomlplusplus-dev",
    "libcli11-dev", "nlohmann-json3-dev", "libgtest-dev", "libgmock-dev", "libbenchmark-dev", "librapidcheck-dev",
]
# Shared libraries of theirs that are needed too, whatever a release calls them.
RUNTIME = re.compile(r"^(libprotobuf\d|libprotoc\d|libabsl\d|libbenchmark\d)")
GOLDEN = ["arch", "stories260k"]


def runtime_packages():
    """The packages that hold the development packages' shared libraries."""
    text = subprocess.run(["apt-cache", "depends", "--no-recommends", "--no-suggests", *DEVELOPMENT], check=True,
                          capture_output=True, text=True).stdout
    names = re.findall(r"Depends: ([^\s<>]+)", text)
    return sorted({name for name in names if RUNTIME.match(name)})


def golden_folder():
    """Where golden data is: $CHOIR_GOLDEN_DIR or beside the repository; None without."""
    for folder in (os.environ.get("CHOIR_GOLDEN_DIR", ""), "../shared/golden"):
        if folder and os.path.isdir(folder):
            return folder
    return None


def size_of(folder):
    """Bytes of all files below a folder."""
    return sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(folder) for name in names)


def run(folder):
    """Fills `folder` with debs/ and golden/, and says how large it is."""
    debs = os.path.join(folder, "debs")
    shutil.rmtree(debs, ignore_errors=True)
    os.makedirs(debs)
    packages = DEVELOPMENT + runtime_packages()
    done = subprocess.run(["apt-get", "download", "-q", *packages], cwd=debs)
    if done.returncode != 0:
        sys.exit("gpu-check: apt-get download failed; has 'apt-get update' been run?")
    source = golden_folder()
    for name in GOLDEN:
        target = os.path.join(folder, "golden", name)
        shutil.rmtree(target, ignore_errors=True)
        if source and os.path.isdir(os.path.join(source, name)):
            shutil.copytree(os.path.join(source, name), target)
    print(f"gpu-check: {len(packages)} packages{' and golden data' if source else ''} in {folder}: "
          f"{size_of(folder) / 2**20:.1f} MiB")
