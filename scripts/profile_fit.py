"""Where the time of a fit goes, from the mesh file to the file of the field, stage by stage.

    python scripts/profile_fit.py bunny.obj
    python scripts/profile_fit.py bunny.obj --config dss_2x128 fit.epochs=20

The mesh is fitted twice, by the clock and by processor time, which adds up all threads and hardly
depends on what else the machine does. The second fit finds libraries loaded that the first one had
to load.
"""

import tempfile
from pathlib import Path

from dss import cli
from dss.experiments.fit_profile import COLUMNS, fit_profile
from dss.registry import load_config
from dss.tables import table


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("mesh", help="a mesh file, or `demo`")
    options.add_argument("--config", default="fast", help="a configuration, or a YAML file")
    options.add_argument("overrides", nargs="*", help="settings, such as spheres.count=128")
    args = options.parse_intermixed_args()
    config, device = (
        load_config(args.config, args.overrides, args.mesh),
        cli.pick_device(args.device),
    )
    with tempfile.TemporaryDirectory() as folder:
        print(table(fit_profile(config, Path(folder), device), COLUMNS))


if __name__ == "__main__":
    cli.run(main)
