"""Export a trained model as a Hugging Face directory with a model card, and as ONNX files on request.

    python -m jobs.export runs/vit-tiny --to model/
    python -m jobs.export runs/vit-tiny --to model/ --onnx --overwrite
    python -m jobs.export s3://bucket/runs/first --to s3://bucket/models/first

CHECKPOINT is a run (its newest valid checkpoint is taken) or one checkpoint. The directory holds weights (safetensors),
configuration, tokenizer, image processor, and a README with what the model was trained on and the metrics that
jobs.evaluate has measured, so run that before. CLIP-shaped models (the vit presets) need only transformers:
pipeline("zero-shot-image-classification", model="model/"). For other encoders transformers needs xmodal installed and
`import xmodal.encoders`; onnx/image.onnx and onnx/text.onnx need neither. A model of clips is loaded by
xmodal.encoders.DualEncoder.from_pretrained.

Before anything is written to --to, transformers and onnxruntime must compute the model's own vectors from the exported
files. The directory appears complete or not at all. A directory that is not empty is refused, and --overwrite replaces
only the files of an earlier export.
"""

import sys

from jobs import arguments, console
from pipelines.config.export import ExportConfig
from pipelines.runtime.output_path import check_output
from xmodal.formatting import format_bytes


def run(config: ExportConfig) -> None:
    from pipelines.results import export  # takes seconds to import: only for a valid command line

    check_output(config.to, "--to")
    result = export.run(config, print)
    print(f"exported  step {result.step:,} to {result.to}: {len(result.files)} files, {format_bytes(result.bytes)}")
    for tower in result.onnx:
        print(f"onnx      {tower.path} differs from the tower by at most {tower.difference:.1e}")
    if result.other_steps:
        steps = ", ".join(f"{step:,}" for step in result.other_steps)
        print(f"card      evaluations of step {steps} are left out: they are not of these weights")
    print(f"loads     {result.loads}")


def preview(config: ExportConfig) -> dict[str, object]:
    from pipelines.preview.local_jobs import preview_export

    return preview_export(config)


def parse(words: list[str]) -> arguments.ModelJobRequest[ExportConfig]:
    return arguments.parse_model_request(ExportConfig, words, program="python -m jobs.export", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.run_or_preview(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
