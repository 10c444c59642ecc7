"""Runs what was built: the tests, and choir-model for its logits."""
import json
import os
import subprocess
import tempfile

from gpu_check import build

ALONE = ["gpu_model_test"]
MORE = ["model_device_ops_test", "model_ops_test", "model_attention_test", "model_adapter_ops_test",
        "model_trainer_test"]


def run_tests(options, add):
    """The GoogleTest programs; each is one row."""
    env = build.program_environment()
    if options.device == "cpu":
        env["CHOIR_GPU_TEST_DEVICE"] = "cpu"
    for name in ALONE + ([] if options.quick else MORE):
        log = os.path.join(options.out, name + ".log")
        with open(log, "w") as file:
            done = subprocess.run([build.program(name)], stdout=file, stderr=subprocess.STDOUT, env=env, timeout=300)
        with open(log) as file:
            lines = file.read().splitlines()
        skipped = sum(line.startswith("[  SKIPPED ]") and "ms)" in line for line in lines)
        passed = sum(line.startswith("[       OK ]") for line in lines)
        failed = [line.split()[3] for line in lines if line.startswith("[  FAILED  ]") and "ms)" in line]
        text = f"{passed} passed" + (f", {skipped} skipped" if skipped else "")
        if done.returncode != 0:
            text += f", failed: {', '.join(failed) or f'exit code {done.returncode}'}; see {log}"
            print("\n".join(line for line in lines if not line.startswith("[ "))[-4000:])
        # A test that was skipped has shown nothing.
        add(name, done.returncode == 0 and passed > 0 and (skipped == 0 or name in MORE), text)


def last_logits(model, rows, device, wide, adapter=None):
    """choir-model's logits after each row of ids, and its mean loss. wide: computed in float32."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(rows, file)
        file.flush()
        command = [build.program("choir-model"), "eval", "--model", model, "--ids", file.name, "--json", "--logits",
                   "last", "--device", device]
        if wide:
            command += ["--precision", "fp32"]
        if adapter:
            command += ["--adapter", adapter]
        done = subprocess.run(command, capture_output=True, text=True, env=build.program_environment(), timeout=200)
    if done.returncode != 0:
        raise RuntimeError(f"choir-model eval: {done.stdout.strip()} {done.stderr.strip()[-2000:]}")
    document = json.loads(done.stdout)
    return document["logits_last"], document["mean_nll"]
