"""The cluster files are what Ray, KubeRay and Kubernetes accept, and fit what the jobs need."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from support.command import REPOSITORY

from ray_pipeline.core.errors import UserError
from ray_pipeline.engine import segments as segments_module
from ray_pipeline.engine.cluster import Node, check_resources
from ray_pipeline.engine.config import stage_config
from ray_pipeline.pipeline import load_job
from ray_pipeline.stage import Settings

CLUSTER = REPOSITORY / "cluster"
LAUNCHER = ["aws.yaml", "gcp.yaml"]
KUBERAY = ["kuberay/cluster.yaml", "kuberay/job.yaml"]
CONFIGS = sorted((REPOSITORY / "configs").glob("*/cluster.yaml"))
SCHEMAS = json.loads((Path(__file__).parent / "kuberay_schemas.json").read_text())


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def of_kind(name: str, kind: str) -> dict[str, Any]:
    return next(document for document in documents(name) if document["kind"] == kind)


def check_spec(kind: str, spec: Any) -> None:
    jsonschema.validate(spec, {**SCHEMAS, "$ref": f"#/$defs/{kind}"})


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_launcher_accepts_its_files(name: str) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    (config,) = documents(name)
    jsonschema.validate(config, schema)
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    # A typing error in a field must be found.
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "idle_timeout": 5}, schema)


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_accepts_its_files(name: str) -> None:
    for document in documents(name):
        if document["apiVersion"] != "ray.io/v1":
            assert document["kind"] == "ServiceAccount"
            continue
        check_spec(document["kind"], document["spec"])
        with pytest.raises(jsonschema.ValidationError):
            check_spec(document["kind"], {**document["spec"], "rayversion": "2"})


def test_a_misspelt_field_of_a_pod_is_found() -> None:
    spec = of_kind("kuberay/cluster.yaml", "RayCluster")["spec"]
    pod = spec["workerGroupSpecs"][1]["template"]["spec"]
    pod["containers"][0]["volumeMount"] = pod["containers"][0].pop("volumeMounts")
    with pytest.raises(jsonschema.ValidationError, match="volumeMount"):
        check_spec("RayCluster", spec)


def launcher_nodes(name: str) -> list[Node]:
    """All nodes of a launcher's file when every group but those on demand is at its maximum."""
    types = documents(name)[0]["available_node_types"]
    nodes: list[Node] = []
    for key, group in types.items():
        if not key.endswith("on-demand"):  # takes the place of the one on spot
            nodes += [group["resources"]] * group.get("max_workers", 1)
    return nodes


def kuberay_nodes() -> list[Node]:
    spec = of_kind("kuberay/cluster.yaml", "RayCluster")["spec"]
    nodes: list[Node] = [{"CPU": 0}]
    for group in spec["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        node = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        if not group["groupName"].endswith("on-demand"):
            nodes += [node] * group["maxReplicas"]
    return nodes


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("name", [*LAUNCHER, "kuberay"])
def test_every_cluster_configuration_fits_the_cluster_at_its_largest(
    name: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for the configuration to be complete")
    # The models' weights and prompts are part of the identity, which nothing here depends on.
    monkeypatch.setattr(segments_module, "stage_identity", lambda stage: {"name": stage.name})
    job = load_job(config)
    nodes = kuberay_nodes() if name == "kuberay" else launcher_nodes(name)
    stages = [stage.bound(stage_config(job.config, stage.name)) for stage in job.stages]
    settings = Settings(seed=0, stages=stages, run_dir=job.config.run_dir)
    stages = [s.bound(s.config, settings) for s in stages if not s.is_off]
    segments = segments_module.cut(stages, {}, job.config.save_every_stage)
    check_resources(segments, job.config.llms, nodes, autoscaling=False)
    # The check is one: a cluster of the head alone is too small for each of them.
    with pytest.raises(UserError, match="the cluster has 0"):
        check_resources(segments, job.config.llms, nodes[:1], autoscaling=False)


def groups() -> list[tuple[str, int, int]]:
    """Name, least size and priority of each group of workers."""
    found = []
    for name in LAUNCHER:
        config = documents(name)[0]
        for key, group in config["available_node_types"].items():
            if key != config["head_node_type"]:
                found.append((key, group["min_workers"], group.get("priority", 0)))
    for group in of_kind("kuberay/cluster.yaml", "RayCluster")["spec"]["workerGroupSpecs"]:
        found.append((group["groupName"], group["minReplicas"], group.get("priority", 0)))
    return found


def test_workers_go_when_nothing_runs_and_spot_comes_first() -> None:
    assert len(groups()) == 15
    for name, least, priority in groups():
        assert least == 0
        assert (priority > 0) == name.endswith("-spot")


def test_nothing_but_the_image_of_this_repository_is_used() -> None:
    images = set()
    for name in [*LAUNCHER, *KUBERAY]:
        images |= set(re.findall(r"image: \"?(\S+?)\"?[,\s]", (CLUSTER / name).read_text()))
    assert images == {"REGISTRY/ray-pipeline:cpu", "REGISTRY/ray-pipeline:gpu"}


def test_the_image_and_the_clusters_have_the_versions_that_the_tests_have() -> None:
    pinned = dict(
        line.split("==")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if "==" in line and ";" not in line
    )
    assert of_kind("kuberay/cluster.yaml", "RayCluster")["spec"]["rayVersion"] == pinned["ray"]
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    installs = [line for line in dockerfile.splitlines() if "pip install" in line]
    for line in installs:
        assert any(w in line for w in ("-c constraints", "--no-deps", "--upgrade pip", "$torch"))
    assert "USER ray" in dockerfile


def test_every_file_that_the_image_copies_is_there() -> None:
    dockerfile = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    copied = re.findall(r"^COPY --chown=ray (.+)$", dockerfile, re.MULTILINE)
    assert copied
    for line in copied:
        *sources, _ = line.split()
        for source in sources:
            assert (REPOSITORY / source).exists(), source


@pytest.mark.parametrize("name", [*LAUNCHER, *KUBERAY, "Dockerfile"])
def test_every_path_that_a_file_names_is_there(name: str) -> None:
    text = (CLUSTER / name).read_text()
    for path in re.findall(r"(?:cluster|docs|configs|jobs)/[\w/.-]+\.\w+", text):
        assert (REPOSITORY / path).exists(), path
