"""Writes train.npz and test.npz: scikit-learn's handwritten digits, split once, before any pod runs.

    python examples/digits/make_data.py

The two files are committed, so nobody needs scikit-learn to run the example; this is how they came about.
"""

from pathlib import Path

import numpy
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HELD_OUT = 0.2
SEED = 20240


def main() -> None:
    digits = load_digits()
    images, labels = digits.images.astype(numpy.uint8), digits.target.astype(numpy.uint8)
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels)
    folder = Path(__file__).parent
    numpy.savez_compressed(folder / "train.npz", x=train_x, y=train_y)
    numpy.savez_compressed(folder / "test.npz", x=test_x, y=test_y)


if __name__ == "__main__":
    main()
