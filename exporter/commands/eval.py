"""`quamba-export eval`: perplexity of a model on text, and its distance from another model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quamba_export.calib.model import state_dtype
from quamba_export.exporter.console import emit, progress
from quamba_export.exporter.options import (
    CalibrationPath,
    Device,
    FloatSimAsicInt8,
    FloatSimAsicResearchSe,
    Fp32SsmInput,
    Json,
    MaxTokens,
    ProviderOption,
    ScaleFactor,
    SsmInput,
    TaskLimit,
    TaskNames,
    TaskPath,
    TextToScore,
    W4a5Se,
    Window,
    chosen_scan_input,
)
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from rich.console import Console

    from quamba_export.exporter.evaluation.evaluate import Evaluation
    from quamba_export.exporter.evaluation.language_models import LanguageModel


def evaluate(
    path: Annotated[str, typer.Argument(help="A checkpoint (directory or hub id), export/ or bundle/.")],
    data: TextToScore = None,
    window: Window = 1024,
    max_tokens: MaxTokens = None,
    mode: Annotated[
        Literal["prefill", "decode"], typer.Option(help="A whole window a call, or a token a call.")
    ] = "prefill",
    against: Annotated[
        str | None, typer.Option(help="Another model: adds KL(against || PATH) and top-1 agreement.")
    ] = None,
    cloze: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Adds the share of the text's first N passages whose last word the model finds.",
        ),
    ] = None,
    tasks: TaskNames = None,
    task_path: TaskPath = None,
    task_limit: TaskLimit = None,
    calibration: CalibrationPath = None,
    qformat: Annotated[
        str | None, typer.Option(help="As in export: the quantized reference of a checkpoint.")
    ] = None,
    ssm_state_dtype: Annotated[
        state_dtype.SsmStateDtype | None,
        typer.Option(help="As in export, as --qformat."),
    ] = None,
    ssm_input: SsmInput = None,
    scale_factor: ScaleFactor = None,
    fp32_ssm_input: Fp32SsmInput = False,
    float_sim_asic_int8: FloatSimAsicInt8 = False,
    float_sim_asic_research_se: FloatSimAsicResearchSe = False,
    w4a5_se: W4a5Se = False,
    provider: ProviderOption = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Perplexity and bits a byte; with --against, KL divergence and top-1 agreement; with --cloze last words;
    with --tasks lm-eval's scores.

    With --calibration or --qformat, a CHECKPOINT is scored as the quantized PyTorch reference.

    Example: quamba-export eval bundle/ --data validation.txt --mode decode --against CHECKPOINT
    """
    from quamba_export.exporter.evaluation.language_models import open_language_model
    from quamba_export.exporter.evaluation.task_scores import check_known, chosen_tasks, task_scores

    check_asked(data, tasks, task_path or task_limit, against or cloze)
    chosen = chosen_tasks(tasks, task_path, task_limit)
    if chosen:
        check_known(chosen)
    aliases = fp32_ssm_input, float_sim_asic_int8, float_sim_asic_research_se, w4a5_se
    study = chosen_scan_input(ssm_input, scale_factor, *aliases)
    flags = {
        "--calibration": calibration,
        "--qformat": qformat,
        "--ssm-state-dtype": ssm_state_dtype,
        "--ssm-input": study,
    }
    check_reference_flags(path, [flag for flag, value in flags.items() if value is not None])
    model = open_language_model(
        path,
        calibration=calibration,
        qformat=qformat,
        ssm_state_dtype=ssm_state_dtype,
        ssm_input=study,
        provider=provider,
        device=device,
    )
    result = None
    if data is not None:
        other = against_model(against, device) if against else None
        result = scored_text(model, other, data, window, max_tokens, mode, cloze)
    facts = result.present_fields() if result else described(model)
    if chosen:
        facts["tasks"] = task_scores(model, chosen)
    emit(facts, as_json, lambda console: show_all(result, facts, console))


def against_model(path: str, device: str) -> LanguageModel:
    """The other model: a checkpoint where this one is computed, an export or bundle where it runs."""
    from quamba_export.exporter.artefacts import artefact_kind
    from quamba_export.exporter.evaluation.language_models import open_language_model

    is_checkpoint = artefact_kind(Path(path)) == "checkpoint"
    return open_language_model(path, device=device if is_checkpoint else "cpu")


def scored_text(
    model: LanguageModel,
    other: LanguageModel | None,
    data: str,
    window: int,
    max_tokens: int | None,
    mode: Literal["prefill", "decode"],
    cloze: int | None,
) -> Evaluation:
    """The model's scores on a text, and on its passages where they are asked for."""
    from quamba_export.calib.data import token_stream
    from quamba_export.exporter.evaluation.cloze import read_passages, with_cloze
    from quamba_export.exporter.evaluation.evaluate import evaluate

    stream = token_stream(data, model.tokenizer_path, model.eos_token_id, limit=max_tokens)
    passages = read_passages(data, cloze) if cloze else []
    with progress(f"{mode} {model.path}", len(stream)) as bar:
        result = evaluate(model, stream, window=window, mode=mode, against=other, advance=bar.advance)
    if passages:
        with progress(f"cloze {model.path}", len(passages), unit="passages") as bar:
            result = with_cloze(result, model, other, passages, bar.advance)
    return result


def described(model: LanguageModel) -> dict[str, Any]:
    """What an evaluation says of its model, where no text was scored."""
    keys = "path", "kind", "engine", "qformat", "ssm_state_dtype", "ssm_input"
    return {key: getattr(model, key) for key in keys}


def check_asked(data: str | None, tasks: str | None, of_tasks: object, of_text: object) -> None:
    """Refuse (exit 2) nothing to score, and options of what is not scored."""
    found = ""
    if data is None and tasks is None:
        found = "neither --data nor --tasks"
    elif tasks is None and of_tasks is not None:
        found = "--task-path or --task-limit without --tasks"
    elif data is None and of_text is not None:
        found = "--against or --cloze without --data"
    if found:
        allowed = "--data TEXT, --tasks NAMES, or both"
        raise QuambaError(
            "eval was not told what to score", found=found, allowed=allowed, code=ExitCode.USAGE
        )


def check_reference_flags(path: str, given: list[str]) -> None:
    """Refuse (exit 2) the quantized reference's flags for any other model: they would do nothing."""
    from quamba_export.exporter.artefacts import artefact_kind

    kind = artefact_kind(Path(path))
    if given and (kind != "checkpoint" or not {"--calibration", "--qformat"} & {*given}):
        raise QuambaError(
            f"{given[0]} does not belong to {path}",
            found=f"{kind}/" if kind != "checkpoint" else "no --calibration or --qformat",
            allowed="with a checkpoint and --calibration or --qformat, which make its quantized reference",
            code=ExitCode.USAGE,
        )


def show_all(result: Evaluation | None, facts: dict[str, Any], console: Console) -> None:
    if result:
        show(result, console)
    else:
        console.print(f"[bold]{facts['path']}[/] ({facts['kind']}, {facts['engine']}, {facts['qformat']})")
    for task, metrics in facts.get("tasks", {}).items():
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        console.print(f"  {task:<15} {shown}", highlight=False)


def show(result: Evaluation, console: Console) -> None:
    details = (
        f"{result.kind}, {result.engine}, {result.qformat}, {result.ssm_state_dtype} state, {result.mode}"
    )
    details += f", scan input {result.ssm_input}" if result.ssm_input != "int8" else ""
    console.print(f"[bold]{result.path}[/] ({details})")
    console.print(f"  perplexity      {result.perplexity:.4f}   ({result.nats_per_token:.5f} nats a token)")
    if result.bits_per_byte is not None:
        console.print(f"  bits a byte     {result.bits_per_byte:.4f}")
    console.print(f"  tokens scored   {result.tokens} in windows of {result.window}")
    console.print(f"  speed           {result.tokens_per_second:.0f} tokens/s")
    if result.against_perplexity is not None:
        ratio = result.perplexity / result.against_perplexity
        console.print(
            f"  against         {result.against}: {result.against_perplexity:.4f}, ratio {ratio:.4f}"
        )
        console.print(
            f"  KL, top-1       {result.kl:.6f} nats a token, {result.top1_agreement:.2%} agreement"
        )
    if result.cloze_accuracy is not None:
        other = result.against_cloze_accuracy
        beside = f", against {other:.2%}" if other is not None else ""
        share = f"{result.cloze_accuracy:.2%} +- {result.cloze_standard_error:.2%}"
        console.print(f"  last words      {share} of {result.cloze_passages} passages{beside}")
