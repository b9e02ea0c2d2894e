"""Side-by-side timings of every stage against public libraries: `make bench`, or one script at a time.

    train_step      a training step: the reference recipe, Hugging Face's Trainer with PEFT, this project
    decoding        a decoded context: the reference recipe, Hugging Face's generate, this project
    scoring         scoring a test set: a re-enactment of the official scripts, this project
    inference       Q, K, V of an adapted model, before and after `loda.optimize_for_inference`
    start_up        seconds to the first answer: --help, a mistake in the settings, `import loda`; the approximations
    growth          how the times grow: figures

Variants take turns (A B A B), so that a busy machine slows all alike; a number is the median of its repeats. Each
script writes `outputs/bench/NAME.json` with the machine, its threads and every single timing. Weights are random, of
the shape that `--model` names: no time depends on their values, but that of decoding, on where the texts end. These are
not tests.
"""
