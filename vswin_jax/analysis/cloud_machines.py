"""Accelerators of the clouds' machine types, by the names that their consoles show."""

import re

# (pattern of the machine type, accelerator; {0} is the pattern's group, a number of chips or GPUs).
# Google: cloud.google.com/tpu/docs/tpus-in-gke and compute/docs/gpus; AWS: ec2/instance-types;
# Azure: virtual-machines/sizes/gpu-accelerated; Oracle: Compute/References/computeshapes.
_NUMBERED = (
    (r"ct3p?-hightpu-(\d+)t", "v3:{0}"),
    (r"ct4p-hightpu-(\d+)t", "v4:{0}"),
    (r"ct5lp?-hightpu-(\d+)t", "v5e:{0}"),
    (r"ct5p-hightpu-(\d+)t", "v5p:{0}"),
    (r"ct6e-standard-(\d+)t", "v6e:{0}"),
    (r"tpu7x-standard-(\d+)t", "tpu7x:{0}"),
    (r"a2-(?:highgpu|megagpu)-(\d+)g", "a100:{0}"),
    (r"a2-ultragpu-(\d+)g", "a100-80gb:{0}"),
    (r"a3-(?:high|mega|edge)gpu-(\d+)g", "h100:{0}"),
    (r"a3-ultragpu-(\d+)g", "h200:{0}"),
    (r"a4-highgpu-(\d+)g", "b200:{0}"),
    (r"a4x-highgpu-(\d+)g", "gb200:{0}"),
    (r"bm\.gpu4\.(\d+)", "a100:{0}"),
    (r"bm\.gpu\.a100-v2\.(\d+)", "a100-80gb:{0}"),
    (r"bm\.gpu\.([hb]\d00)\.8", "{0}:8"),
    (r"(?:dgx|hgx)-?(b200|b300|h100|h200)", "{0}:8"),
    (r"(?:dgx|hgx)-?a100", "a100-80gb:8"),
    (r"p6-(b200|b300)\.48xlarge", "{0}:8"),
    (r"nd\d+is?r?-([hb]\d00)-v[56]", "{0}:8"),
    (r"nd\d+is?r?-ndr-gb200-v6", "gb200:4"),
    (r"nd\d+asr(?:-a100)?-v4", "a100:8"),
    (r"nd\d+amsr-a100-v4", "a100-80gb:8"),
)
_SIZES = {
    "g2-standard-": ("l4", {1: "4 8 12 16 32", 2: "24", 4: "48", 8: "96"}),
    "g4-standard-": ("rtx-pro-6000", {1: "48", 2: "96", 4: "192", 8: "384"}),
    "p4d.": ("a100", {8: "24xlarge"}),
    "p4de.": ("a100-80gb", {8: "24xlarge"}),
    "p5.": ("h100", {1: "4xlarge", 8: "48xlarge"}),
    "p5e.": ("h200", {8: "48xlarge"}),
    "p5en.": ("h200", {8: "48xlarge"}),
    "p6e-gb200.": ("gb200", {4: "36xlarge"}),
    "p3.": ("v100", {1: "2xlarge", 4: "8xlarge", 8: "16xlarge"}),
    "p3dn.": ("v100", {8: "24xlarge"}),
    "g4dn.": ("t4", {1: "xlarge 2xlarge 4xlarge 8xlarge 16xlarge", 4: "12xlarge", 8: "metal"}),
    "g5.": (
        "a10g",
        {1: "xlarge 2xlarge 4xlarge 8xlarge 16xlarge", 4: "12xlarge 24xlarge", 8: "48xlarge"},
    ),
    "g6.": (
        "l4",
        {1: "xlarge 2xlarge 4xlarge 8xlarge 16xlarge", 4: "12xlarge 24xlarge", 8: "48xlarge"},
    ),
    "g6e.": (
        "l40s",
        {1: "xlarge 2xlarge 4xlarge 8xlarge 16xlarge", 4: "12xlarge 24xlarge", 8: "48xlarge"},
    ),
    "nc": (
        "a100-80gb",
        {1: "24ads-a100-v4", 2: "48ads-a100-v4", 4: "96ads-a100-v4"},
    ),
}


def accelerator_of_machine(name: str) -> str | None:
    """Return the accelerators of a machine type, as "a100:4"; None for an unknown machine.

    `name` is in lower case with hyphens for blanks and underscores. A number after a TPU's name is
    one of chips.
    """
    name = name.removeprefix("standard-").removeprefix("ml.").removeprefix("n1-standard-")
    for pattern, accelerator in _NUMBERED:
        found = re.fullmatch(pattern, name)
        if found:
            return accelerator.format(*found.groups())
    return next(
        (
            f"{gpu}:{count}"
            for family, (gpu, sizes) in _SIZES.items()
            for count, suffixes in sizes.items()
            if name.startswith(family) and name.removeprefix(family) in suffixes.split()
        ),
        None,
    )
