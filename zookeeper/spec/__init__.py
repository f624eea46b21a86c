"""What is wanted: YAML text to a frozen `ZooSpec`, to its models, to a plan. No torch, no I/O but reading YAML."""

from zookeeper.spec.document import Document, Section, load_document, parse_document, validate_document
from zookeeper.spec.grid import ModelConfig, expand
from zookeeper.spec.identity import difference
from zookeeper.spec.plan import Cohort, Plan, make_plan
from zookeeper.spec.schema import ZooSpec, load_spec, parse_spec
from zookeeper.spec.sections import ImageSpec

__all__ = [
    "Cohort",
    "Document",
    "ImageSpec",
    "ModelConfig",
    "Plan",
    "Section",
    "ZooSpec",
    "difference",
    "expand",
    "load_document",
    "load_spec",
    "make_plan",
    "parse_document",
    "parse_spec",
    "validate_document",
]
