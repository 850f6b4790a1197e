"""``vectide``: commands by name, each imported when it is called, and exit codes for scripts.

==== ==========================================================================
code meaning
==== ==========================================================================
0    done; a long-running command was asked to stop and lost nothing
1    failed; the text says what to do
2    the command line, the configuration or the environment is wrong
3    fenced: another process has taken over this writer's identity
4    the log was replaced or truncated (verify: it lacks what the store knows), or a topic has
     settings that lose data
5    the collection is of another model or chunking, or not vectide's
6    the state folder is in use by another process
7    Kafka, Qdrant or a running vectide did not answer in time, or the store has not caught up:
     try again
8    refused as things are, for example a second migration; nothing was changed
9    the gate refused: the new generation is behind, differs from the log or answers worse
10   a migration job was told to stop before it was done: start it again
11   verify found a difference between the store and the log, or the log and a source
12  certify refuses a connector
130  interrupted
==== ==========================================================================
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final

import click

from pipeline.cli.stopping import end_at_once, leave
from pipeline.errors import VectideError, exit_code
from pipeline.masking import without_passwords
from pipeline.observe.logs import printable_lines

_INTERRUPTED: Final = 130
#: As pipeline.cli.job has it, which is imported later.
_JOB_STOPPED: Final = 10
_LONG_LIVED: Final = ("up", "connect", "work", "serve")

#: Command: module, name in it, and the line that ``--help`` shows without importing it.
_COMMANDS: Final = {
    "demo": ("demo", "demo", "See it work: real documents, live edits, a restart."),
    "up": ("up", "up", "Keep an index of folders and other sources live, until Ctrl-C."),
    "search": ("search", "search", "Ask a question of the index."),
    "canary": ("canary", "canary", "Publish a document, find it, delete it: how long each takes."),
    "status": ("status", "status", "What is indexed, how far behind, how fresh, what failed."),
    "topics": ("topics", "topics", "Create and check the topics in Kafka."),
    "connect": ("connect", "connect", "Run the connectors of sources (long-lived)."),
    "work": ("work", "work", "Run a chunk or an embed worker (long-lived)."),
    "serve": ("serve", "serve", "Answer searches over HTTP (long-lived)."),
    "migrate": ("migrate", "migrate", "Change the model or the chunking: live, proven, undone in a second."),
    "verify": ("verify", "verify", "Prove that the store equals the log, and repair what does not."),
    "dead-letters": ("dead_letters", "dead_letters", "List, show, replay or drop what failed for good."),
    "explain": ("explain", "explain", "The life of one document: log, generations, dead letters."),
    "forget": ("forget", "forget", "Delete documents everywhere, prove it, and keep them out."),
    "receipt": ("forget", "receipt", "Check the receipt of what was forgotten."),
    "gc": ("gc", "gc", "Remove what nothing needs any more; a dry run by default."),
    "certify": ("certify", "certify", "Hold a connector to what every connector must do."),
    "size": ("size", "size", "What a pipeline of some size needs: workers, memory, hours, cost."),
    "config": ("config", "config", "Check the configuration and show what is in effect."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"pipeline.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:  # click looks for near names among commands that are imported
            raise click.NoSuchCommand(error.command_name, possibilities=_COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vectide", prog_name="vectide")
def cli() -> None:
    """Keep a vector store in step with its sources, for ever.

    Start with `vectide demo`, or with `vectide up FOLDER` and, in another terminal, `vectide search
    "your question"`.
    """


def main() -> None:
    """The entry point: errors become one clear text on standard error and an exit code."""
    # What is written here, the state folder above all, holds texts of documents: its owner's only.
    os.umask(0o077)
    if sys.argv[1:2] and sys.argv[1] in _LONG_LIVED:
        end_at_once()  # its imports take seconds
    elif sys.argv[1:3] == ["migrate", "run"]:
        end_at_once(_JOB_STOPPED)
    try:
        # Out of its own mode click returns the code of an Exit that a command raised.
        code = cli.main(standalone_mode=False)
        leave(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        leave(2)
    except (KeyboardInterrupt, click.exceptions.Abort):
        leave(_INTERRUPTED)
    except BrokenPipeError:
        # `vectide search ... | head`: the reader has what it wants.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        leave(0)
    except VectideError as error:
        click.echo(printable_lines(f"vectide: {without_passwords(str(error))}"), err=True)
        leave(exit_code(error))
