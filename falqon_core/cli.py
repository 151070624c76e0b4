"""The command line: train | inspect | import | export | convert | bench | compare | doctor. Nothing
heavy is imported before a command needs it.

What errors become is in process_edge.py.
"""

import faulthandler
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from falqon_core.bench.studies import StudyName
from falqon_core.contract.diagnosis import CheckRow
from falqon_core.contract.errors import ConfigError
from falqon_core.contract.formats import ConvertedFormat, MergedFormat
from falqon_core.contract.layout import model_folder
from falqon_core.contract.messages import ExitCode
from falqon_core.contract.template_kwargs import read_template_kwargs
from falqon_core.estimate.comparison import to_markdown
from falqon_core.process_edge import (
    check_folder,
    check_output,
    create_ports,
    errors_become_exit_codes,
    prepare_environment,
    prepare_process,
    read_config,
    to_stderr,
    use_utf8,
)
from falqon_core.train.launch import STDOUT, end_like, run_ranks, take_stdout
from falqon_core.train.report import MessagePort, to_all
from falqon_core.train.signals import StoppedBeforeFirstStep, StopSignal, die_with_parent

FailureFd = Annotated[
    int | None, typer.Option(help="file descriptor for a JSON line that says why it failed")
]
EXIT_CODES = (
    "Exit codes: 0 done; 65 the configuration, data or model is at fault; 70 a fault of the "
    "program or the machine; 71 out of memory; 72 the exported files are not the trained model; 75 "
    "stopped on request, after a checkpoint unless it was before the first step; the same command "
    "continues."
)

app = typer.Typer(
    help="FP8 melded-LoRA fine-tuning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command(epilog=EXIT_CODES)
def train(
    config: Annotated[Path, typer.Option(help="TrainConfig as JSON", exists=True, dir_okay=False)],
    output: Annotated[
        Path,
        typer.Option(
            help="folder for checkpoints/ and model/; a checkpoint found here is continued"
        ),
    ],
    message_fd: Annotated[
        int | None, typer.Option(help="file descriptor for JSON lines; ends when the parent dies")
    ] = None,
    num_processes: Annotated[
        int, typer.Option(min=1, help="of this machine, with one device each")
    ] = 1,
) -> None:
    """Fine-tune a model. SIGTERM or Ctrl-C stops after the current step with a checkpoint. With
    several processes, or started by torchrun, it uses several devices.
    """
    if num_processes > 1:
        arguments = ["train", "--config", str(config), "--output", str(output)]
        end_like(run_ranks(arguments, num_processes, message_fd))
    # A supervisor that takes this process for hung learns where it is.
    faulthandler.register(signal.SIGUSR1, file=2)
    is_rank = "TORCHELASTIC_RUN_ID" in os.environ
    stopping = StopSignal(watch_parent=message_fd is not None or is_rank)
    if is_rank:
        die_with_parent()
    if message_fd == STDOUT:
        message_fd = take_stdout()
    ports = []
    if os.environ.get("RANK", "0") == "0":  # The first of several processes reports alone.
        ports = create_ports(message_fd)
    try:
        with errors_become_exit_codes(to_all(ports)):
            train_config = read_config(config)
            check_folder(output)
            check_folder(model_folder(output))
            prepare_process(offline=True)
            from falqon_core.train.distributed import join_process_group
            from falqon_core.train.trainer import Trainer

            with join_process_group() as group, group.barrier_or_raise():
                try:
                    code = Trainer(train_config, output, to_all(ports), stopping, group).run()
                except StoppedBeforeFirstStep:
                    code = ExitCode.STOPPED
    finally:
        for port in ports:
            port.close()
    raise typer.Exit(code)


@app.command(epilog=EXIT_CODES)
def inspect(
    dataset: Annotated[Path, typer.Argument(help="JSONL file of records")],
    model: Annotated[Path, typer.Option(help="folder whose tokenizer counts")],
    max_seq_length: Annotated[int, typer.Option(min=8)] = 2048,
    validation_file: Annotated[
        Path | None,
        typer.Option(help="JSONL file whose records should not be among those of DATASET"),
    ] = None,
    chat_template_kwargs: Annotated[
        Any,
        typer.Option(
            parser=read_template_kwargs,
            metavar="JSON",
            help="variables of the chat template, as in the recipe",
        ),
    ] = None,
    message_fd: FailureFd = None,
) -> None:
    """Tokenize a data set for a model and print what it finds as JSON: counts, lengths, duplicates,
    the first records token by token.
    """
    with errors_become_exit_codes(to_stderr if message_fd is None else MessagePort(message_fd)):
        prepare_process(offline=True)
        use_utf8()
        from falqon_core.train.inspection import inspect_dataset

        inspection = inspect_dataset(
            dataset, model, max_seq_length, validation_file, chat_template_kwargs
        )
        sys.stdout.write(inspection.model_dump_json() + "\n")


@app.command(hidden=True)
def held_out(
    config: Annotated[Path, typer.Option(help="TrainConfig as JSON", exists=True, dir_okay=False)],
    message_fd: FailureFd = None,
) -> None:
    """Print as JSON which lines of its file a training holds out."""
    with errors_become_exit_codes(to_stderr if message_fd is None else MessagePort(message_fd)):
        train_config = read_config(config)
        prepare_process(offline=True)
        from falqon_core.train.held_out import held_out_lines

        sys.stdout.write(json.dumps(held_out_lines(train_config)) + "\n")


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help="FOLDER, FILE.gguf, hf:REPO or builtin:falqon-tiny")
    ],
    output: Annotated[Path, typer.Option(help="model folder to write; must not exist")],
    message_fd: FailureFd = None,
) -> None:
    """Bring a base model into a folder of safetensors and tokenizer, and say what was converted."""
    with errors_become_exit_codes(to_stderr if message_fd is None else MessagePort(message_fd)):
        check_folder(output.parent)
        prepare_process(offline=False)
        from falqon_core.importers.importer import import_model

        for conversion in import_model(source, output):
            typer.echo(conversion)


@app.command()
def export(
    training: Annotated[Path, typer.Argument(help="the --output folder of a training")],
    model: Annotated[Path, typer.Option(help="the base model it was trained from")],
    output: Annotated[Path, typer.Option(help="folder to write; an earlier export is replaced")],
    step: Annotated[
        int | None,
        typer.Option(
            min=1, help="of which checkpoint; default: the one of the lowest loss, or the newest"
        ),
    ] = None,
    base_model: Annotated[
        str, typer.Option(help="name of the base model, for the card; default: the folder's")
    ] = "",
    train_file: Annotated[
        Path | None, typer.Option(help="what it was trained on; with it the model is certified")
    ] = None,
    validation_file: Annotated[
        Path | None, typer.Option(help="what it was evaluated on, if there was such a file")
    ] = None,
    to: Annotated[
        MergedFormat | None,
        typer.Option(
            help="q4_1: a GGUF file of the INT4 weights that qa_lora trained; default: a folder "
            "with the weights as they were trained"
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="of the model, as a GGUF file shows it")] = "model",
    num_threads: Annotated[
        int | None, typer.Option(min=1, help="on a CPU; default: one for each core")
    ] = None,
    message_fd: FailureFd = None,
) -> None:
    """Write a checkpoint of a training as a merged model, in the form that it trained."""
    with errors_become_exit_codes(to_stderr if message_fd is None else MessagePort(message_fd)):
        check_output(output, training, model, train_file, validation_file)
        prepare_process(offline=True)
        import torch

        from falqon_core.train.exporter import DataFiles, choose_checkpoint, export_training

        if num_threads is not None:
            torch.set_num_threads(num_threads)
        if to == "q4_1":
            from falqon_core.train.q4_1 import export_q4_1

            _, checkpoint = choose_checkpoint(training, step)
            export_q4_1(checkpoint, model, output, name, base_model or model.name)
            return
        files = None if train_file is None else DataFiles(train_file, validation_file)
        export_training(training, model, output, step, base_model, files, to)


@app.command(epilog=EXIT_CODES)
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="for lora the folder of a checkpoint, otherwise that of an exported model"
        ),
    ],
    to: Annotated[
        ConvertedFormat,
        typer.Option(help="lora, bf16 or gguf; gguf_…: rounded to llama.cpp's smaller blocks"),
    ],
    output: Annotated[Path, typer.Option(help="folder to write; an earlier export is replaced")],
    name: Annotated[str, typer.Option(help="of the model, as it is shown")] = "model",
    base_model: Annotated[
        str,
        typer.Option(help="name of the base model, for the adapter's configuration and the card"),
    ] = "base",
    training: Annotated[
        Path | None,
        typer.Option(
            help="TrainConfig as JSON, whose held-out rows say what rounding costs",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    merged: Annotated[
        Path | None,
        typer.Option(help="the exported model that gguf_lora is compared with, by --training"),
    ] = None,
    base_folder: Annotated[
        Path | None,
        typer.Option(
            help="the base model, for lora of a folder with adapter.gguf",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    message_fd: FailureFd = None,
) -> None:
    """Write a trained model in another format: an adapter for PEFT, plain bf16, or GGUF."""
    with errors_become_exit_codes(to_stderr if message_fd is None else MessagePort(message_fd)):
        check_output(output, source)
        if merged is not None and (to != "gguf_lora" or training is None):
            raise ConfigError("--merged goes with --to gguf_lora and --training", "merged")
        if base_folder is not None:
            if to != "lora":
                raise ConfigError("--base-folder goes with --to lora", "base_folder")
            from falqon_core.export.peft import convert_gguf_adapter

            convert_gguf_adapter(source / "adapter.gguf", base_folder, output, base_model)
            return
        config = None if training is None else read_config(training)
        prepare_process(offline=True)
        match to:
            case "gguf_q8_0" | "gguf_q5_k_m" | "gguf_q4_k_m":
                from falqon_core.train.rounding import export_rounded

                export_rounded(to, source, output, name, base_model, config)
            case "gguf_lora" if config is not None and merged is not None:
                from falqon_core.train.rounding import export_adapter

                export_adapter(source, output, name, base_model, config, merged)
            case _:
                from falqon_core.export.formats import write_format

                write_format(to, source, output, name, base_model)


@app.command(hidden=True)
def certify() -> None:
    """Compare an exported model with what its trainer says of it; the trainer asks on stdin."""
    with errors_become_exit_codes(to_stderr):
        prepare_process(offline=True)
        use_utf8()
        from falqon_core.verification.process import main

        main(sys.stdin, sys.stdout)


@app.command(epilog=EXIT_CODES)
def bench(
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="also write everything measured here, as it comes", dir_okay=False
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="short measurements and one round, to see that everything runs"
        ),
    ] = False,
    study: Annotated[
        StudyName | None,
        typer.Option(
            help="one result of the paper instead: when FP8 pays, where a step's time goes, or "
            "what the paper's training costs; on a GPU, or in small on a CPU"
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="also draw the study, as SVG", dir_okay=False)
    ] = None,
) -> None:
    """Measure this GPU: its ceilings, every kernel, and training steps against LoRA, QLoRA and
    torchao. Takes up to 8 minutes.
    """
    with errors_become_exit_codes(to_stderr):
        if study is not None and (json_file is not None or quick):
            raise ConfigError("--json and --quick are not for a study; leave them out", "study")
        if study is None and plot is not None:
            raise ConfigError("--plot draws a study; name one with --study", "plot")
        for param, path in {"json": json_file, "plot": plot}.items():
            if path is not None:
                check_folder(path.absolute().parent, param)
        prepare_process(offline=True)
        if study is not None:
            from falqon_core.bench.studies.run import run_study

            sys.stdout.write(run_study(study, plot, _tell))
            return
        from falqon_core.bench.ceilings import require_gpu
        from falqon_core.bench.report import (
            FULL_LIMITS,
            QUICK_LIMITS,
            SIZES_7B,
            measure,
            write_json,
        )
        from falqon_core.bench.table import Report, markdown

        def save(report: Report) -> None:
            if json_file is not None:
                write_json(report, json_file)

        limits = QUICK_LIMITS if quick else FULL_LIMITS
        report = measure(require_gpu(), SIZES_7B, limits, _tell, save)
        save(report)
        sys.stdout.write(markdown(report))


@app.command(epilog=EXIT_CODES)
def compare(
    config: Annotated[
        Path, typer.Option(help="TrainConfig as JSON, for all", exists=True, dir_okay=False)
    ],
    output: Annotated[Path, typer.Option(help="folder with a folder for each training")],
    methods: Annotated[str, typer.Option(help="names with commas between them, or all")] = "all",
    seeds: Annotated[int, typer.Option(min=1, max=16, help="trainings of each method")] = 1,
    rate_factors: Annotated[
        str, typer.Option(help="tried on the first seed, times the automatic rate of each method")
    ] = "1",
    questions: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines of input and output, a letter A to D, that each model answers",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    num_questions: Annotated[int, typer.Option(min=1)] = 500,
) -> None:
    """Train by several methods in turn and print one table. OUTPUT is continued, not done again."""
    with errors_become_exit_codes(to_stderr):
        train_config = read_config(config)
        check_folder(output)
        prepare_process(offline=True)
        from falqon_core.train.compare import ComparisonPlan, compare, parse_factors, parse_methods

        plan = ComparisonPlan(
            base=train_config,
            methods=parse_methods(methods),
            rate_factors=parse_factors(rate_factors),
            seeds=range(train_config.recipe.seed, train_config.recipe.seed + seeds),
            questions=questions,
            num_questions=num_questions,
        )
        rows = compare(plan, output, _tell)
        sys.stdout.write(to_markdown(rows))


@app.command()
def doctor(
    model: Annotated[
        Path | None,
        typer.Option(help="model folder whose sizes are tried; default: those of Llama-7B"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print all rows as JSON")] = False,
) -> None:
    """Try everything that a training needs on this machine: driver, compiler, kernels, products,
    attention, memory, a step. Takes a minute at most, and ends with 1 if something failed.
    """
    from falqon_core.doctor import diagnose

    prepare_environment(offline=True)
    # Errors of the folder itself; a broken part is a row.
    with errors_become_exit_codes(to_stderr):
        diagnosis = diagnose(model, (lambda _: None) if as_json else _show_check)
    if as_json:
        use_utf8()
        sys.stdout.write(diagnosis.model_dump_json(indent=2) + "\n")
    else:
        sys.stdout.write(f"{diagnosis.summary}, in {diagnosis.seconds:.0f} s\n")
    if diagnosis.count("failed"):
        raise typer.Exit(1)


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _show_check(row: CheckRow) -> None:
    sys.stdout.write(f"{row.status:8}{row.seconds:6.1f} s  {row.name}: {row.detail}\n")
    sys.stdout.flush()
