"""What SGLang's parser makes of its commands; run by an interpreter that has SGLang.

Reads [[word, ...], ...] from stdin and prints the fields of ``ServerArgs`` of each, or {"error": text}. Parser and
arguments are SGLang's own; a checkpoint called ``dummy`` keeps them from asking for a device. Packages its modules
import for other purposes (images, kernels) are replaced by empty ones where they are not installed.
"""

import argparse
import dataclasses
import importlib.abc
import importlib.machinery
import json
import sys
from typing import Any
from unittest.mock import MagicMock

_NOT_NEEDED = ("sgl_kernel", "decord", "torchao", "soundfile", "torchaudio", "xgrammar", "llguidance")


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answer for packages that are not installed; asked last."""

    def find_spec(self, fullname: str, *_: Any) -> Any:
        """Answer for the packages the arguments do not need."""
        is_answered = fullname.partition(".")[0] in _NOT_NEEDED
        return importlib.machinery.ModuleSpec(fullname, self) if is_answered else None

    def create_module(self, spec: Any) -> Any:
        """Return a module that has every name."""
        module = MagicMock(name=spec.name)
        module.__spec__, module.__path__ = spec, []
        return module

    def exec_module(self, module: Any) -> None:
        """Do nothing: there is no code."""


def main() -> None:
    """Answer the commands on stdin."""
    asked = json.load(sys.stdin)
    answers, sys.stdout = sys.stdout, sys.stderr
    sys.meta_path.append(_Absent())
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(exit_on_error=False)
    ServerArgs.add_cli_args(parser)

    def parse(words: list[str]) -> dict[str, Any]:
        try:
            server = ServerArgs.from_cli_args(parser.parse_args(words))
        except (Exception, SystemExit) as error:
            return {"error": f"{type(error).__name__}: {error}"[:2000]}
        fields = [field.name for field in dataclasses.fields(server)]
        return {name: value for name in fields if isinstance(value := getattr(server, name), str | int | float)}

    json.dump([parse(words) for words in asked], answers)


if __name__ == "__main__":
    main()
