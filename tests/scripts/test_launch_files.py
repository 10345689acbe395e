"""The launch files are complete, and vswin_jax.main accepts the arguments that they pass."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from vswin_jax.config import flags

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "scripts" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
MANIFESTS = sorted(LAUNCH.glob("*.yaml"))


def test_there_is_a_launch_file_for_every_environment() -> None:
    names = {path.name for path in LAUNCH.iterdir() if path.is_file()}
    assert names == {
        "gke_jobset.yaml",
        "k8s_jobset.yaml",
        "local.py",
        "slurm.sh",
        "tpu_vm.sh",
    }


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS, LAUNCH / "local.py"], ids=lambda p: p.name)
def test_each_file_begins_with_instructions_to_run_and_to_resume(path: Path) -> None:
    text = path.read_text()
    head = text.split('"""')[1] if path.suffix == ".py" else comments_at_the_top(text)
    assert path.name in head
    assert "resume" in head
    assert "SIGTERM" in head


def comments_at_the_top(text: str) -> str:
    return re.match(r"(#.*\n)+", text)[0]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_parse_and_stop_at_errors(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "\nset -euo pipefail\n" in path.read_text()


def test_slurm_requeues_a_run_that_a_signal_stopped(tmp_path: Path) -> None:
    for name, body in {"srun": 'echo "srun $*"; exit $STATUS', "scontrol": 'echo "$*"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    for status, queued in ((0, False), (143, True), (2, False)):
        environment = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": "12",
            "STATUS": str(status),
        }
        done = subprocess.run(
            [LAUNCH / "slurm.sh", "--workdir", "a b"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status
        assert "python -m vswin_jax.main --workdir a b" in done.stdout
        assert ("requeue 12" in done.stdout) == queued


def test_the_tpu_script_requires_its_variables_and_quotes_arguments(tmp_path: Path) -> None:
    (tmp_path / "gcloud").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "gcloud").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TPU": "mine", "ZONE": "here"}
    command = [LAUNCH / "tpu_vm.sh"]

    def run(*arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        env = {**environment, **more}
        return subprocess.run([*command, *arguments], env=env, capture_output=True, text=True)

    wrong = run("tarin")
    assert (wrong.returncode, "'tarin'" in wrong.stderr) == (2, True)
    assert "set TPU" in run("stop", TPU="").stderr
    started = run("train", "--config=a", "--config.name=it's")
    assert "vswin_jax.main '--config=a' '--config.name=it'\\''s'" in started.stdout
    assert "--worker=all" in started.stdout
    assert "pkill -TERM" in run("stop").stdout


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_job_sets_whose_command_lines_parse(path: Path) -> None:
    (manifest,) = yaml.safe_load_all(path.read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job: dict[str, Any] = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["parallelism"] == job["completions"]
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert pod["terminationGracePeriodSeconds"] >= 120
    (container,) = pod["containers"]
    python, m, module, *arguments = container["command"]
    assert (python, m, module) == ("python", "-m", "vswin_jax.main")
    given = [argument.replace("$(JOB_COMPLETION_INDEX)", "1") for argument in arguments]
    given = [argument.replace("=experiments", f"={ROOT}/experiments") for argument in given]
    parsed = flags.parse(given)
    if path.name == "k8s_jobset.yaml":
        name, jobs = manifest["metadata"]["name"], replicated["name"]
        port = container["ports"][0]["containerPort"]
        assert parsed.cluster_member.coordinator == f"{name}-{jobs}-0-0.{name}:{port}"
        assert parsed.cluster_member.num_processes == job["completions"]
    else:
        assert parsed.cluster_member is None
