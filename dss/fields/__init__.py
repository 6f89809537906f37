"""Fields: one file per method. `build` makes an untrained one from its configuration."""

from dss.config import FieldConfig
from dss.fields.base import Field
from dss.fields.dual_shell import DualShellField
from dss.shell import DualShell

METHODS = {"dual_shell": DualShellField}


def build(config: FieldConfig, shell: DualShell) -> Field:
    """An untrained field of the configured method, its parameters drawn from torch's global generator."""
    return METHODS[config.method](config, shell)
