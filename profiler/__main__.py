"""One rank of a profile under torchrun: ``torchrun --nproc-per-node 8 -m profiler --budget 20m``."""

import os
import sys

import click

from cluster_specs.command_line import tell
from cluster_specs.errors import UserError
from profiler.errors import RENEW_EXIT_CODE
from profiler.profile_command import profile


def run_as_program(command: click.Command, name: str) -> None:
    """Run ``command``; a person's mistake ends in one message, a hint and exit code 2, said by one rank of a node."""
    from profiler.ranks import RankPlace

    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (click.ClickException, UserError) as error:
        code = error.exit_code
        if RankPlace.from_environment().local_rank == 0:
            tell(error)
        if code == RENEW_EXIT_CODE:
            os._exit(code)  # the interpreter's end would meet the broken device again, and may abort over it
        sys.exit(code)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    run_as_program(profile, "python -m profiler")
