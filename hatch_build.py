"""Builds the native modules with the package; without a compiler the package works, only slower, and serving says so."""

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeModules(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        runtime = Path(self.root) / "runtime"
        build = runpy.run_path(str(runtime / "native" / "build.py"))["build"]
        try:
            made = build(runtime)
        except RuntimeError as error:
            self.app.display_warning(f"modelmill is built without its native modules: {error}")
            return
        build_data["artifacts"] += [str(path.relative_to(self.root)) for path in made]
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
