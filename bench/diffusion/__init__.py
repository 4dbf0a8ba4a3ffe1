"""Loads a diffusion model and runs it: encode, decode, sample, denoise.

`DiffusionModel` holds the settings in a matrix file, and its `load` returns a `Diffusion`, which does the work.
`PromptTemplate` turns labels into the model's words, and `BatchFit` finds how many images fit into memory.

Read in this order: model, pipeline, schedule, batch_fit, prompts, folder.
"""
