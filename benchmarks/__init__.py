"""Side-by-side timings against public libraries: `make bench`, or `python -m benchmarks NAME ...`.

    train_step      a training step: the reference recipe, Hugging Face's Trainer with PEFT, this project
    train_step_real the same on SmolLM2-135M, without the reference recipe
    decoding        beam search: the reference recipe, Hugging Face's generate, this project
    decoding_real   the same on SmolLM2-135M with a trained adapter, and optimised and in 8 bits
    decoding_step   a step of beam search, dense and with approximated weights
    scoring_e2e, scoring_dart    scoring a test set: the official way, this project
    inference       an adapted projection, plain and optimised, against the bare one
    growth          how the times grow with the length of rows, with contexts, with r and with records: one figure

Weights are random, of the shape that `--model` names, except in those of a real base. Their values change the time of
decoding only, which depends on where the texts end.
"""
