"""Masks that are found while the model trains: a file for each rule, and what they share (`base`).

online = Structured(module, names, schedule=Cubic(target=0.8, end=1000))   # before the optimizer is made
for batch in batches:
    ...; loss.backward(); optimizer.step(); online.step(); optimizer.zero_grad()
masks = online.finish()
"""
