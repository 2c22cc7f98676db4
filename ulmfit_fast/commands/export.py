"""`ulmfit-fast export`: a trained model as a file for other libraries, or as a packed folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ulmfit_fast.commands.run_folder import find_model
from ulmfit_fast.commands.terminal import Terminal, count
from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.export_check import ExportCheck
from ulmfit_fast.interop.export_files import check_place, tokenizer_file
from ulmfit_fast.interop.packed import export_packed
from ulmfit_fast.text.table import load_table
from ulmfit_fast.training.trainer import ULMFiTTrainer

#: Ending of the files of each form.
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}


@dataclass(frozen=True)
class ExportOptions:
    """Options of `export`.

    Attributes:
        model: folder of a model, or of the run that made it.
        to: "onnx", "torch-export", or "packed": a model folder of ours.
        out: file to write, its tokenizer beside it; or the folder.
        precision: of the weights in the file, "fp32" or "bf16".
        int8: whether weights and products are 8-bit; a packed folder's weights are unless they
            are bf16.
        texts: file of texts to check with; None draws tokens.
        overwrite: whether files may stand there.
    """

    model: Path
    to: str
    out: Path
    precision: str = "fp32"
    int8: bool = False
    texts: str | None = None
    overwrite: bool = False


def export(options: ExportOptions, terminal: Terminal) -> None:
    """Write a model's file, and say how near it comes to the model.

    Raises:
        InputError: the model, the place or the texts cannot be used, a library is missing, or the
            file differs from the model; nothing is written then.
    """
    if options.to in SUFFIXES:
        check_place(options.out, SUFFIXES[options.to], overwrite=options.overwrite)
    if options.to == "torch-export" and (options.precision != "fp32" or options.int8):
        raise InputError("--to torch-export: weights stay fp32; leave out --precision and --int8")
    if options.int8 and options.precision != "fp32":
        raise InputError(
            "--int8 and --precision bf16 exclude each other: 8-bit weights are half as large as "
            "bf16 already; leave one of them out"
        )
    folder = find_model(options.model, "model", "language_model")
    trainer = ULMFiTTrainer.load(folder, device="cpu")
    texts = _texts(options.texts, trainer.text_columns)
    checked_with = count(len(texts), "text") if texts else "drawn tokens"
    terminal.note(f"exporting, then checking with {checked_with}")
    check = _export(trainer, options, texts)
    _say(trainer, options, check, terminal)


def _packing(options: ExportOptions) -> str:
    return "bf16" if options.precision == "bf16" else "int8"


def _texts(source: str | None, columns: tuple[str, ...]) -> list[str]:
    """Read the texts to check with, from the model's columns where the file has them."""
    if source is None:
        return []
    raw = load_table(source)
    wanted = columns if raw.has_names and set(columns) <= raw.columns.keys() else ()
    return raw.choose(text_columns=wanted or None, labelled=False).texts


def _export(trainer: ULMFiTTrainer, options: ExportOptions, texts: list[str]) -> ExportCheck:
    if options.to == "packed":
        return export_packed(
            trainer, options.out, packing=_packing(options), overwrite=options.overwrite,
            texts=texts,
        )  # fmt: skip
    if options.to == "torch-export":
        from ulmfit_fast.interop.torch_export import export_program

        return export_program(trainer, options.out, overwrite=options.overwrite, texts=texts)
    try:
        from ulmfit_fast.interop.onnx import export_onnx
    except ImportError as error:
        raise InputError(str(error)) from error
    return export_onnx(
        trainer, options.out, precision=options.precision, quantize=options.int8,
        overwrite=options.overwrite, texts=texts,
    )  # fmt: skip


def _say(
    trainer: ULMFiTTrainer, options: ExportOptions, check: ExportCheck, terminal: Terminal
) -> None:
    """Print what was written and how near it comes."""
    out, beside = options.out, tokenizer_file(options.out)
    classes = len(trainer.labels)
    kind = f"classifier, {classes} classes" if classes else "language model"
    weights = _packing(options) if options.to == "packed" else options.precision
    weights = "int8" if options.int8 else weights
    files = sorted(out.iterdir()) if out.is_dir() else [out]
    n_bytes = sum(file.stat().st_size for file in files)
    terminal.say(f"{out}  {n_bytes / 1e6:,.1f} MB  {kind}, weights {weights}")
    if options.to != "packed":
        terminal.say(f"{beside}  {beside.stat().st_size / 1e6:,.1f} MB")
    terminal.say(
        f"checked with {count(check.n_texts, 'text')} of {check.shortest:,} to {check.longest:,} "
        f"tokens: logits differ by at most {check.max_difference:.1e}, probabilities by "
        f"{check.max_probability_difference:.1e}; same {'class' if classes else 'token'} in "
        f"{check.agreement:.1%}"
    )
    terminal.result(
        {
            "out": str(out), "bytes": n_bytes,
            "tokenizer": str(out / "tokenizer.json" if options.to == "packed" else beside),
            "to": options.to, "precision": options.precision, "int8": weights == "int8",
            "check": asdict(check),
        }
    )  # fmt: skip
