"""Take a trained model elsewhere: a plain Hugging Face directory with a model card, and ONNX files on request.

    python -m jobs.export runs/vit-tiny --to model/
    python -m jobs.export runs/vit-tiny --to model/ --onnx --overwrite
    python -m jobs.export s3://bucket/runs/first --to s3://bucket/models/first

CHECKPOINT is a run (its newest sound checkpoint is taken) or one checkpoint. The directory holds weights (safetensors),
configuration, tokenizer, image processor, and a README that says what the model was trained on and what was measured:
evaluate it first (jobs.evaluate), and the figures are in it. CLIP-shaped models (the vit presets) need transformers
only: pipeline("zero-shot-image-classification", model="model/"). For the other towers transformers needs xmodal
installed and `import xmodal.encoders`; onnx/image.onnx and onnx/text.onnx need neither. A model of clips is for
xmodal.encoders.DualEncoder.from_pretrained.

Before anything is put in place, transformers and onnxruntime are run on it and must give the model's own vectors. The
directory appears whole or not at all; one that holds something is refused, and --overwrite replaces the files of an
earlier export only.
"""

import sys
from typing import Any

from jobs import arguments, console
from pipelines.config.export import Config
from pipelines.runtime.output_path import check_output
from xmodal.formatting import size


def run(config: Config) -> None:
    from pipelines.results import export  # torch and seconds, for a command line that is sound

    check_output(config.to, "--to")
    result = export.run(config, print)
    print(f"exported  step {result.step:,} to {result.to}: {len(result.files)} files, {size(result.bytes)}")
    for one in result.onnx:
        print(f"onnx      {one.path} differs from the tower by at most {one.difference:.1e}")
    if result.other_steps:
        steps = ", ".join(f"{step:,}" for step in result.other_steps)
        print(f"card      evaluations of step {steps} are left out: they are not of these weights")
    print(f"loads     {result.loads}")


def preview(config: Config) -> dict[str, Any]:
    from pipelines.preview.local_jobs import exporting

    return exporting(config)


def parse(words: list[str]) -> arguments.Start[Config]:
    return arguments.parse_start(Config, words, program="python -m jobs.export", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
