"""From trained weights to smaller ones that are computed on as they are stored.

`plan` checks the steps of a variant, `pipeline` applies them to the weights of a module, `weights` writes and reads the
file, `apply` puts a file into a module for evaluation and serving, `kernels` multiplies. `stage` is the pod around it.
"""
