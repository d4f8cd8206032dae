"""A variant's module as machine code that torch's AOTInductor made ahead of time.

`build` makes it where there is a compiler (`modelmill compile`), `measure` says whether it is worth having. Where models are
served `candidate` takes it if `machine` can run it and it proves itself. `library` calls it, for inputs that `sizes` admits.
"""
