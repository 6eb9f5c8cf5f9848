# %% [markdown]
# Which material is it? Windows of seven micrographs are classified by their 2-point statistics.
#
#     python examples/classify_micrographs.py [FOLDER] [--quick] [--out FOLDER]
#
# FOLDER holds one segmented micrograph of each material as a .npy file. Without it, seven synthetic structures are
# made. There is only one image of each material. So the model is trained on one end of each image and tested on the
# other end, with a gap between. The accuracy is therefore that of unseen parts of known images. It says nothing of
# other images of the same materials.

# %%
import argparse
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, log_loss
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from mksdask import MKSHomogenizationModel, PrimitiveBasis, sample_windows
from mksdask.datasets import make_microstructure
from mksdask.stats import correlate
from mksdask.tools import draw_microstructures

parser = argparse.ArgumentParser(description="Classify windows of micrographs by their 2-point statistics")
parser.add_argument("folder", type=Path, nargs="?", help="folder of segmented micrographs, .npy files of integers")
parser.add_argument("--quick", action="store_true", help="fewer windows and candidates")
parser.add_argument("--out", type=Path, default=Path("classify-micrographs"), help="folder for the figures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
start = time.perf_counter()

EDGE = 48  # voxels of a window
CUTOFF = 16
GAP = 32  # voxels between the two parts of an image
TEST_SHARE = 0.35  # of the length of an image
N_BANDS = 3

# %%
if arguments.folder is None:
    # The generator makes periodic images. A part is cut off, so that the two ends do not touch.
    shapes = [(2, 2), (8, 2), (2, 8), (5, 5), (5, 5), (12, 12), (12, 5)]
    fractions = [0.5, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3]
    images = {
        f"{100 * fraction:.0f} %, grains {shape}": make_microstructure(
            n_samples=1, size=(320, 256), grain_size=shape, volume_fraction=(1 - fraction, fraction), seed=seed
        )[0, :256]
        for seed, (shape, fraction) in enumerate(zip(shapes, fractions, strict=True))
    }
else:
    # Rows of an image file lie along y. A third phase would give its material away, so it joins the second.
    images = {
        path.stem.removesuffix("_resized"): (np.load(path, allow_pickle=False).T > 0).astype(np.uint8)
        for path in sorted(arguments.folder.glob("*.npy"))
    }
    if len(images) < 2:
        parser.error(f"{arguments.folder} holds {len(images)} .npy files, but two materials are needed at least")

# %% [markdown]
# The gap must exceed the length over which an image is correlated, or the test would not be one. The part for training
# is cut into bands, which share no voxel, so that the search for parameters can leave out one of them at a time.

# %%
stride = 16 if arguments.quick else 8
training, held_out, lengths = [], [], []
for name, image in images.items():
    test_first = round((1 - TEST_SHARE) * image.shape[0])
    for band, part in enumerate(np.array_split(image[: test_first - GAP], N_BANDS, axis=1)):
        training += [(window, name, band) for window in sample_windows(part, size=EDGE, stride=stride).compute()]
    held_out += [(window, name) for window in sample_windows(image[test_first:], size=EDGE, stride=stride).compute()]
    f = correlate(image[None], PrimitiveBasis(2), correlations=[(1, 1)], cutoff=GAP)[0, GAP:, GAP, 0]
    covariance = (f - image.mean() ** 2) / (f[0] - image.mean() ** 2)
    lengths.append(int(np.argmax(np.abs(covariance) < 0.1)) or GAP)
X, y, bands = map(np.array, zip(*training, strict=True))
X_test, y_test = map(np.array, zip(*held_out, strict=True))
print(f"{len(X)} windows to train, {len(X_test)} held out, of {len(images)} materials; {GAP} voxels between the parts")
print(f"correlation along x falls below 10 % within {max(lengths)} voxels")
assert max(lengths) < GAP, "the gap between training and test must exceed the correlation length"

# %% [markdown]
# The statistics are computed once. The search then tries numbers of components, and how strongly to regularize.

# %%
linker = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
model = MKSHomogenizationModel(PrimitiveBasis(2), correlations=[(1, 1)], cutoff=CUTOFF, property_linker=linker)
grid = {
    "n_components": [4, 8] if arguments.quick else [4, 8, 16, 32],
    "property_linker__logisticregression__C": [1.0] if arguments.quick else [0.01, 0.1, 1.0, 10.0],
}
shared = model.share(X)
search = GridSearchCV(model, grid, cv=LeaveOneGroupOut(), scoring="neg_log_loss")
search.fit(shared, y, groups=bands)
print(f"best by log loss: {search.best_params_}")
predicted, probability = search.predict(X_test), search.predict_proba(X_test)
print(
    f"held-out windows: accuracy {accuracy_score(y_test, predicted):.3f}, log loss {log_loss(y_test, probability):.3f}"
)

# %% [markdown]
# How much of it does the volume fraction alone know?

# %%
fractions = [windows.reshape(len(windows), -1).mean(axis=1, keepdims=True) for windows in (X, X_test)]
by_fraction = make_pipeline(PolynomialFeatures(2), StandardScaler(), LogisticRegression(C=100.0, max_iter=5000))
by_fraction.fit(fractions[0], y)
print(f"from the volume fraction alone: accuracy {by_fraction.score(fractions[1], y_test):.3f}")
means = {name: probability[y_test == name].mean(axis=0) for name in images}
right = sum(search.classes_[mean.argmax()] == name for name, mean in means.items())
print(f"held-out parts by the mean probability of their windows: {right} of {len(images)} right")
print("There is one image of each material: these are unseen parts of known images, and no other images.")

# %%
figure = Figure(figsize=(8, 7), layout="constrained")
ConfusionMatrixDisplay.from_predictions(
    y_test, predicted, normalize="true", values_format=".2f", xticks_rotation=45, ax=figure.subplots(), colorbar=False
)
figure.axes[0].set(
    title=f"windows of held-out parts, accuracy {accuracy_score(y_test, predicted):.3f}",
    xlabel="classified as",
    ylabel="material",
)
figure.savefig(arguments.out / "confusion.png")
first = [int(np.argmax(y_test == name)) for name in images]
draw_microstructures(X_test[first], list(images)).savefig(arguments.out / "windows.png")
print(f"figures in {arguments.out}, all in {time.perf_counter() - start:.1f} s")
